//! Interval: how often something came out of how many -> between what the true rate lies, and whether two differ.

use serde::Serialize;

/// The standard normal's 97.5 % point: of a hundred such intervals ninety-five hold the truth.
const Z: f64 = 1.959_963_985;

/// A rate, and between what it lies, as shares of one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    pub share: f64,
    pub low: f64,
    pub high: f64,
}

/// Wilson's interval, which is right for few and for extreme counts too. `None` of nothing.
pub fn wilson(came: u32, of: u32) -> Option<Rate> {
    if of == 0 {
        return None;
    }
    let (n, rate) = (f64::from(of), f64::from(came) / f64::from(of));
    let shrink = 1.0 + Z * Z / n;
    let middle = (rate + Z * Z / (2.0 * n)) / shrink;
    let half = Z / shrink * (rate * (1.0 - rate) / n + Z * Z / (4.0 * n * n)).sqrt();
    Some(Rate { share: rate, low: (middle - half).max(0.0), high: (middle + half).min(1.0) })
}

/// How much higher the first rate is than the second: Newcombe's interval, made of Wilson's two.
pub fn difference(one: Rate, other: Rate) -> Rate {
    let share = one.share - other.share;
    let low = share - (one.share - one.low).hypot(other.high - other.share);
    let high = share + (one.high - one.share).hypot(other.share - other.low);
    Rate { share, low, high }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Rate, expected: [f64; 3]) -> bool {
        [found.share, found.low, found.high]
            .iter()
            .zip(expected)
            .all(|(found, expected)| (found - expected).abs() < 5e-4)
    }

    /// From Newcombe's papers of 1998: table I of the first, and example (a) of the second.
    #[test]
    fn they_are_those_of_the_literature() {
        assert!(close(wilson(81, 263).unwrap(), [0.3080, 0.2553, 0.3662]));
        assert!(close(wilson(15, 148).unwrap(), [0.1014, 0.0624, 0.1605]));
        assert!(close(wilson(0, 20).unwrap(), [0.0, 0.0, 0.1611]));
        assert!(close(wilson(1, 29).unwrap(), [0.0345, 0.0061, 0.1718]));
        assert_eq!(wilson(0, 0), None);
        let (one, other) = (wilson(56, 70).unwrap(), wilson(48, 80).unwrap());
        assert!(close(difference(one, other), [0.2000, 0.0524, 0.3339]));
    }
}
