//! The painter: lines of the screen to cells of a terminal.

use ratatui_core::{
    buffer::Buffer,
    style::{Color, Modifier, Style},
};

use super::{
    table::{Line, Tone},
    text::{Look, width},
};

/// Paints lines from the top. The buffer is empty before.
pub(super) fn paint(buffer: &mut Buffer, lines: &[Line], look: &Look) {
    let area = buffer.area;
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        let mut x = area.left();
        for span in &line.spans {
            if x >= area.right() {
                break;
            }
            let style = style(span.tone, line.reversed, look.colour);
            buffer.set_stringn(x, y, &span.text, usize::from(area.right() - x), style);
            // Each text begins where it was measured to, also if a terminal joins some of its characters.
            x = x.saturating_add(u16::try_from(width(&span.text)).unwrap_or(u16::MAX));
        }
        if line.reversed {
            let row = ratatui_core::layout::Rect { y, height: 1, ..area };
            buffer.set_style(row, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
}

/// The style of a tone. Nothing is told by a colour alone: the words say it as well.
fn style(tone: Tone, reversed: bool, colour: bool) -> Style {
    let style = Style::new();
    match tone {
        Tone::Plain => style,
        Tone::Faint if reversed => style,
        Tone::Faint => style.add_modifier(Modifier::DIM),
        Tone::Head | Tone::Bad | Tone::Warning if !colour => style.add_modifier(Modifier::BOLD),
        Tone::Head => style.add_modifier(Modifier::BOLD),
        Tone::Good if !colour => style,
        Tone::Good => style.fg(Color::Green),
        Tone::Warning => style.fg(Color::Yellow),
        Tone::Bad => style.fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}
