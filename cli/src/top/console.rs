//! The terminal in raw mode with a screen of its own, and its return to what it was: at the end, after a
//! panic, and while the program is suspended.

use std::{
    io::{self, Stdout, Write as _},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use crossterm::{
    cursor::{Hide, Show},
    execute,
    terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
};
use ratatui_core::terminal::Terminal;
use ratatui_crossterm::CrosstermBackend;
use tokio::time::Instant;

use super::{app::App, paint::paint, screen, text::Look};

/// Whether the terminal is in raw mode.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// The terminal, until this is dropped.
pub(super) struct Console {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Console {
    pub(super) fn open() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let inner = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                leave();
                inner(info);
            }));
        });
        let terminal = Terminal::new(CrosstermBackend::new(io::stdout()))?;
        let console = Self { terminal };
        enter()?;
        Ok(console)
    }

    pub(super) fn draw(&mut self, app: &mut App, look: &Look) -> io::Result<()> {
        let mut cursor = None;
        self.terminal.draw(|frame| {
            let area = frame.area();
            let screen = screen::draw(app, look, area.width.into(), area.height.into(), Instant::now());
            paint(frame.buffer_mut(), &screen.lines, look);
            cursor = screen.cursor.and_then(|column| u16::try_from(column).ok());
            if let Some(column) = cursor {
                frame.set_cursor_position((column, area.height.saturating_sub(1)));
            }
        })?;
        Ok(())
    }

    /// Draws all of the next screen.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        // `Terminal::clear` asks the terminal where the cursor is, whose answer the reader of keys may take.
        let size = self.terminal.size()?;
        self.terminal.resize(size.into())
    }

    /// Stops this process, with those that were started together with it if so wanted, as Ctrl-Z does
    /// it; and takes the terminal again when it goes on.
    #[cfg(unix)]
    pub(super) fn suspend(&mut self, with_group: bool) -> io::Result<()> {
        use rustix::process::{Signal, getpid, kill_current_process_group, kill_process};
        leave();
        // A signal that cannot be handled: ours is for putting the terminal right.
        if with_group {
            kill_current_process_group(Signal::STOP)?;
        } else {
            kill_process(getpid(), Signal::STOP)?;
        }
        enter()?;
        self.clear()
    }

    #[cfg(not(unix))]
    pub(super) fn suspend(&mut self, _: bool) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        leave();
    }
}

fn enter() -> io::Result<()> {
    ENTERED.store(true, Ordering::SeqCst);
    let entered = enable_raw_mode().and_then(|()| execute!(io::stdout(), EnterAlternateScreen, Hide));
    if entered.is_err() {
        leave();
    }
    entered
}

/// Puts the terminal right, if it is not.
pub(super) fn leave() {
    if ENTERED.swap(false, Ordering::SeqCst) {
        // There is nothing to do about a terminal that is gone.
        drop(execute!(io::stdout(), LeaveAlternateScreen, Show));
        drop(disable_raw_mode());
        drop(io::stdout().flush());
    }
}
