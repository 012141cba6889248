//! Which replica of a shard answers a read. Pure.

/// A replica that might answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Requests under way there, as far as the caller knows.
    pub outstanding: u32,
    /// It is up, fresh enough, and has what the session wrote.
    pub eligible: bool,
}

/// The eligible replica with the fewest requests under way, as its position. Equals take turns: the search begins at `turn` modulo
/// their number, which the caller raises by 1 each time. `None`: the primary must answer.
pub fn choose(candidates: impl ExactSizeIterator<Item = Candidate>, turn: usize) -> Option<usize> {
    let n = candidates.len();
    let first = turn.checked_rem(n)?;
    let eligible = candidates.enumerate().filter(|(_, c)| c.eligible);
    eligible.min_by_key(|(i, c)| (c.outstanding, (i + n - first) % n)).map(|(i, _)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(candidates: &[(u32, bool)], turn: usize) -> Option<usize> {
        choose(candidates.iter().map(|&(outstanding, eligible)| Candidate { outstanding, eligible }), turn)
    }

    #[test]
    fn equals_take_turns() {
        let three = [(0, true), (0, true), (0, true)];
        let order: Vec<_> = (0..4).map(|turn| chosen(&three, turn)).collect();
        assert_eq!(order, [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn the_least_busy_is_first_and_the_ineligible_never() {
        assert_eq!(chosen(&[(2, true), (1, true), (3, true)], 2), Some(1));
        assert_eq!(chosen(&[(2, true), (1, false), (3, true)], 2), Some(0));
        assert_eq!(chosen(&[(0, false)], 0), None);
        assert_eq!(chosen(&[], 7), None);
    }
}
