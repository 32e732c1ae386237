//! The two runtimes of tokio: a macro that makes two tests of each scenario.

/// Makes a test of each `async fn` for the runtime of one thread, and one for that of several.
macro_rules! in_both_runtimes {
    ($($name:ident),* $(,)?) => {
        mod one_thread {
            $(#[tokio::test] async fn $name() { super::$name().await; })*
        }
        mod several_threads {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)] async fn $name() { super::$name().await; })*
        }
    };
}

pub(crate) use in_both_runtimes;
