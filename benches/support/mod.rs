//! Support code of the benchmarks `compare` and `tls`: the hpfeeds handshake, a server's CPU time
//! and memory, the median.

pub(crate) mod handshake;
pub(crate) mod process;

/// The median of the finite figures; `None` when there are none.
pub(crate) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.retain(|figure| figure.is_finite());
    figures.sort_unstable_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let upper = figures.get(middle).copied()?;
    Some(if figures.len() % 2 == 1 { upper } else { f64::midpoint(figures[middle - 1], upper) })
}
