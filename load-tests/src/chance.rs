//! Chance that a seed owns, and what customers buy with it: a few products by far the most.

/// Numbers that look random and are the same for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// The numbers of the `n`-th draw under a seed: who draws first does not change what is drawn.
    #[must_use]
    pub fn of(seed: u64, n: u64) -> Chance {
        let mut chance = Chance(seed);
        Chance(chance.number() ^ n.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, and without, 1.
    pub fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number from 0 up to, and without, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.fraction() * end as f64) as u64
    }
}

/// Zipf's law with exponent 1: the second is wanted half as often as the first, the third a third as often.
#[derive(Clone, Debug)]
pub struct Zipf {
    up_to: Vec<f64>,
}

impl Zipf {
    /// The law over so many things, at least one.
    #[must_use]
    pub fn over(things: usize) -> Zipf {
        let total: f64 = (1..=things).map(|rank| 1.0 / rank as f64).sum();
        let mut sum = 0.0;
        let up_to = (1..=things).map(|rank| {
            sum += 1.0 / rank as f64 / total;
            sum
        });
        Zipf { up_to: up_to.collect() }
    }

    /// One of them, from 0.
    pub fn draw(&self, chance: &mut Chance) -> usize {
        let fraction = chance.fraction();
        // Rounding may leave the last sum a little below 1.
        self.up_to.partition_point(|sum| *sum <= fraction).min(self.up_to.len() - 1)
    }

    /// So many different ones, or all if there are fewer.
    pub fn different(&self, count: usize, chance: &mut Chance) -> Vec<usize> {
        let mut drawn = Vec::with_capacity(count);
        while drawn.len() < count.min(self.up_to.len()) {
            let one = self.draw(chance);
            if !drawn.contains(&one) {
                drawn.push(one);
            }
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_drawn_half_as_often_as_the_first() {
        let (zipf, mut counts) = (Zipf::over(60), [0_u32; 60]);
        let mut chance = Chance::of(7, 0);
        (0..200_000).for_each(|_| counts[zipf.draw(&mut chance)] += 1);
        let share = |rank: usize| f64::from(counts[rank - 1]) / f64::from(counts[0]);
        for rank in [2, 3, 10] {
            let error = share(rank) * rank as f64;
            assert!((0.9..1.1).contains(&error), "rank {rank} comes {error} times as often as it should");
        }
        assert!(counts[59] > 0, "the last is wanted, too");
    }

    #[test]
    fn an_order_names_no_product_twice() {
        let mut chance = Chance::of(1, 1);
        for count in 1..=3 {
            let mut drawn = Zipf::over(3).different(count, &mut chance);
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), count);
        }
        assert_eq!(Zipf::over(2).different(3, &mut chance).len(), 2, "there are no more");
    }

    #[test]
    fn the_same_seed_draws_the_same_whoever_comes_first() {
        let numbers = |n| Chance::of(42, n).number();
        assert_eq!((numbers(1), numbers(2)), (numbers(1), numbers(2)));
        assert_ne!(numbers(1), numbers(2));
        assert_ne!(Chance::of(41, 1).number(), numbers(1));
    }

    #[test]
    fn numbers_below_an_end_reach_all_of_them_and_no_more() {
        let mut chance = Chance::of(3, 0);
        let mut seen = [false; 3];
        (0..1_000).for_each(|_| seen[usize::try_from(chance.below(3)).unwrap()] = true);
        assert_eq!(seen, [true; 3]);
    }
}
