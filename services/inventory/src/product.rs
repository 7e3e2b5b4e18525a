//! PURE. A product of the catalogue: its names and its price.
use decider::Decider;
use serde::{Deserialize, Serialize};

/// What a product is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Name in Korean.
    pub name_ko: String,
    /// Name in English.
    pub name_en: String,
    /// Category.
    pub category: String,
    /// ISO 4217 code of its prices.
    pub currency: String,
}

/// What is asked of a product.
#[derive(Clone, Debug)]
pub enum Command {
    /// Put it into the catalogue.
    Add {
        /// What it is.
        description: Description,
        /// What it costs, in minor units.
        unit_price: i64,
    },
    /// Change its price.
    ChangePrice {
        /// The new one, in minor units.
        unit_price: i64,
    },
}

/// What happened to a product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of the commands")]
pub enum Event {
    /// It is in the catalogue.
    ProductAdded { description: Description, unit_price: i64 },
    /// It costs something else.
    PriceChanged { unit_price: i64 },
}

/// Why the rules say no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The SKU is taken.
    Taken,
    /// There is no such product.
    Unknown,
    /// It costs something else than the customer saw.
    PriceChanged {
        /// What it costs, in minor units.
        unit_price: i64,
    },
}

/// A product; in the catalogue if it has a price.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// What it is.
    pub description: Description,
    /// What it costs, in minor units; `None` if there is no such product.
    pub unit_price: Option<i64>,
}

impl Product {
    /// Whether it can be sold at the price that the customer saw.
    ///
    /// # Errors
    /// If there is no such product, or it costs something else now.
    pub fn check_price(&self, seen: i64) -> Result<(), Rejection> {
        match self.unit_price {
            None => Err(Rejection::Unknown),
            Some(unit_price) if unit_price != seen => Err(Rejection::PriceChanged { unit_price }),
            Some(_) => Ok(()),
        }
    }
}

impl Decider for Product {
    type Command = Command;
    type Event = Event;
    type Rejection = Rejection;

    fn decide(&self, command: &Command) -> Result<Vec<Event>, Rejection> {
        match (command, self.unit_price) {
            (Command::Add { description, unit_price }, None) => {
                Ok(vec![Event::ProductAdded { description: description.clone(), unit_price: *unit_price }])
            }
            (Command::Add { .. }, Some(_)) => Err(Rejection::Taken),
            (Command::ChangePrice { .. }, None) => Err(Rejection::Unknown),
            (Command::ChangePrice { unit_price }, Some(present)) if *unit_price == present => Ok(vec![]),
            (Command::ChangePrice { unit_price }, Some(_)) => Ok(vec![Event::PriceChanged { unit_price: *unit_price }]),
        }
    }

    fn evolve(self, event: &Event) -> Product {
        match event {
            Event::ProductAdded { description, unit_price } => {
                Product { description: description.clone(), unit_price: Some(*unit_price) }
            }
            Event::PriceChanged { unit_price } => Product { unit_price: Some(*unit_price), ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decider::spec::given;

    fn added() -> Event {
        Event::ProductAdded {
            description: Description { name_en: "Tea".into(), ..Description::default() },
            unit_price: 900,
        }
    }

    #[test]
    fn a_product_is_added_once() {
        let add = || Command::Add {
            description: Description { name_en: "Tea".into(), ..Description::default() },
            unit_price: 900,
        };
        given::<Product>([]).when(add()).then([added()]);
        given::<Product>([added()]).when(add()).then_rejected(&Rejection::Taken);
    }

    #[test]
    fn a_price_changes_to_another_one() {
        let change = |unit_price| Command::ChangePrice { unit_price };
        given::<Product>([added()]).when(change(800)).then([Event::PriceChanged { unit_price: 800 }]);
        given::<Product>([added()]).when(change(900)).then_nothing();
        given::<Product>([]).when(change(900)).then_rejected(&Rejection::Unknown);
    }

    #[test]
    fn a_customer_who_saw_another_price_is_told_the_present_one() {
        let product = Product::default().fold(&[added(), Event::PriceChanged { unit_price: 800 }]);
        assert_eq!(product.check_price(800), Ok(()));
        assert_eq!(product.check_price(900), Err(Rejection::PriceChanged { unit_price: 800 }));
        assert_eq!(Product::default().check_price(900), Err(Rejection::Unknown));
    }
}
