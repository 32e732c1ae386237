//! Numbers of a presence record in two bytes.

/// A number in two bytes, rounded down to its eleven highest bits: less than a thousandth too small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rounded(u16);

impl Rounded {
    const BITS: u32 = 11;

    pub(super) fn of(number: u32) -> Self {
        let shift = (u32::BITS - number.leading_zeros()).saturating_sub(Self::BITS);
        // At most 21 for the shift, and eleven bits of the number.
        Self(u16::try_from((shift << Self::BITS) | (number >> shift)).unwrap_or(u16::MAX))
    }

    pub(super) fn get(self) -> u32 {
        let mantissa = u32::from(self.0) & ((1 << Self::BITS) - 1);
        mantissa << (u32::from(self.0) >> Self::BITS).min(u32::BITS - Self::BITS)
    }

    pub(super) fn raise(&mut self, number: u32) {
        if number > self.get() {
            *self = Self::of(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_by_less_than_a_thousandth() {
        for number in [0, 1, 7, 2047, 2048, 2049, 65_535, 86_400, 604_799, 1 << 31, u32::MAX] {
            let rounded = Rounded::of(number).get();
            assert!(rounded <= number && number - rounded <= number / 1000, "{number}: {rounded}");
        }
    }
}
