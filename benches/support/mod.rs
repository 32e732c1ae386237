//! Support code of several benchmarks: the hpfeeds handshake, a server's CPU time and memory, the
//! median.

pub(crate) mod handshake;
#[cfg(target_os = "linux")]
pub(crate) mod process;

/// The median of the finite figures; `None` when there are none.
pub(crate) fn median(figures: Vec<f64>) -> Option<f64> {
    quantile(figures, 0.5)
}

/// The figure that this part of the finite ones does not exceed, between two of them if need be.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a short list")]
pub(crate) fn quantile(mut figures: Vec<f64>, part: f64) -> Option<f64> {
    figures.retain(|figure| figure.is_finite());
    figures.sort_unstable_by(f64::total_cmp);
    let place = figures.len().checked_sub(1)? as f64 * part.clamp(0.0, 1.0);
    let (lower, upper) = (figures[place.floor() as usize], figures[place.ceil() as usize]);
    Some(lower + (upper - lower) * place.fract())
}
