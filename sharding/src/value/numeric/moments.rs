//! Variance and standard deviation, to the digit that PostgreSQL shows.

use crate::refusal::Refusal;
use crate::value::numeric::{BASE_DIGITS, Decimal, Numeric};

/// Sums of more digits (of base 10000) than these are refused: multiplying them would keep everybody else waiting.
const DIGITS_MAX: usize = 1024;

/// What variance needs to know of some numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moments {
    /// How many they are, NaN and the infinities included.
    pub count: i64,
    pub sum: Numeric,
    /// The sum of their squares.
    pub squares: Numeric,
}

impl Default for Moments {
    fn default() -> Self {
        Self { count: 0, sum: Numeric::from(0), squares: Numeric::from(0) }
    }
}

impl Moments {
    /// `var_samp` of a `sample`, `var_pop` of all; `None` where SQL says NULL.
    ///
    /// # Errors
    /// `0A000` for numbers with so many digits that their squares are not known exactly or take too long, `22003`
    /// when numeric cannot hold the result.
    pub fn variance(&self, sample: bool) -> Result<Option<Numeric>, Refusal> {
        let rows = u128::from(self.count.unsigned_abs());
        if self.count <= 0 || sample && self.count == 1 {
            return Ok(None);
        }
        let (Numeric::Finite(sum), Numeric::Finite(squares)) = (&self.sum, &self.squares) else {
            return Ok(Some(Numeric::NaN));
        };
        let divisor = rows * (rows - u128::from(sample));
        let exact = squares.scale == sum.scale * 2 && divisor < u128::MAX / 20_000;
        if !exact || sum.digits.len().max(squares.digits.len()) > DIGITS_MAX {
            return Err(too_long());
        }
        let Numeric::Finite(count) = Numeric::from(i128::from(self.count)) else { return Err(too_long()) };
        let mut square_of_sum = sum.multiply(sum);
        square_of_sum.negative = !square_of_sum.is_zero();
        let numerator = count.multiply(squares).add(&square_of_sum);
        // PostgreSQL shows such a zero without a scale.
        if numerator.sign() <= 0 {
            return Ok(Some(Numeric::from(0)));
        }
        numerator.divide(divisor).bounded().map(|variance| Some(Numeric::Finite(variance)))
    }

    /// `stddev_samp` of a `sample`, `stddev_pop` of all; `None` where SQL says NULL.
    ///
    /// # Errors
    /// As [`Moments::variance`].
    pub fn deviation(&self, sample: bool) -> Result<Option<Numeric>, Refusal> {
        Ok(self.variance(sample)?.map(|variance| match variance {
            Numeric::Finite(variance) => Numeric::Finite(variance.square_root()),
            special => special,
        }))
    }
}

impl Decimal {
    /// The exact product, with the scales of both.
    fn multiply(&self, other: &Self) -> Self {
        // Each sum stays below 10^8 times the number of digits.
        let mut sums = vec![0_i64; self.digits.len() + other.digits.len()];
        for (i, a) in self.digits.iter().enumerate() {
            for (j, b) in other.digits.iter().enumerate() {
                sums[i + j + 1] += i64::from(*a) * i64::from(*b);
            }
        }
        let mut carry = 0;
        let mut digits = vec![0; sums.len()];
        for (sum, digit) in sums.iter().zip(&mut digits).rev() {
            carry += sum;
            *digit = i16::try_from(carry % 10_000).unwrap_or_default();
            carry /= 10_000;
        }
        let negative = self.negative != other.negative;
        Self { negative, weight: self.weight + other.weight + 1, scale: self.scale + other.scale, digits }.normal()
    }

    /// The square root of a value that is not negative, with the value's own scale, rounded half up.
    ///
    /// By hand, as on paper: with every pair of digits of the value, the root gets the greatest digit whose
    /// `(20000 * root + digit) * digit` the remainder still holds.
    fn square_root(&self) -> Self {
        let start = self.weight.div_euclid(2);
        // One decimal place more at least, which decides rounding.
        let end = -(self.scale / BASE_DIGITS + 1);
        let (mut root, mut rest, mut product) = (Vec::new(), Vec::new(), Vec::new());
        for place in (end..=start).rev() {
            // Least digit first, so a pair is put before the others.
            rest.splice(0..0, [self.digit(2 * place), self.digit(2 * place + 1)].map(i32::from));
            let (mut holds, mut too_much) = (0, 10_000);
            while too_much - holds > 1 {
                let digit = i32::midpoint(holds, too_much);
                grow(&root, digit, &mut product);
                if is_less(&rest, &product) {
                    too_much = digit;
                } else {
                    holds = digit;
                }
            }
            grow(&root, holds, &mut product);
            subtract(&mut rest, &product);
            root.insert(0, holds);
        }
        let digits = root.iter().rev().map(|digit| i16::try_from(*digit).unwrap_or_default()).collect();
        Self { negative: false, weight: start, scale: self.scale, digits }.normal().rounded(self.scale)
    }
}

/// `(20000 * root + digit) * digit` into `product`, all with the least digit first.
fn grow(root: &[i32], digit: i32, product: &mut Vec<i32>) {
    product.clear();
    let mut carry = 0;
    let factors = std::iter::once(digit).chain(root.iter().map(|digit| 2 * digit));
    for factor in factors {
        carry += factor * digit;
        product.push(carry % 10_000);
        carry /= 10_000;
    }
    product.extend([carry % 10_000, carry / 10_000]);
}

/// Numbers with the least digit first; zeros may stand at their ends.
fn is_less(a: &[i32], b: &[i32]) -> bool {
    let digit = |number: &[i32], place: usize| number.get(place).copied().unwrap_or(0);
    let differs = (0..a.len().max(b.len())).rev().find(|place| digit(a, *place) != digit(b, *place));
    differs.is_some_and(|place| digit(a, place) < digit(b, place))
}

/// Takes from `rest` what is not more than it.
fn subtract(rest: &mut Vec<i32>, taken: &[i32]) {
    let mut borrow = 0;
    for (place, digit) in rest.iter_mut().enumerate() {
        let left = *digit - taken.get(place).copied().unwrap_or(0) - borrow;
        borrow = i32::from(left < 0);
        *digit = left + borrow * 10_000;
    }
    while rest.last() == Some(&0) {
        rest.pop();
    }
}

fn too_long() -> Refusal {
    Refusal::unsupported(
        "the variance of numbers with so many digits is not computed over several shards",
        "Round the numbers, or compare the sharding key with a value, so that one shard can answer.",
    )
}
