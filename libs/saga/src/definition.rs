//! The steps of a saga, read from YAML and checked when loaded: a definition that could strand an order does not start.
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use resilience::backoff::Backoff;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

/// What may become of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It can be undone: if it or a later step fails, it is.
    #[default]
    Compensatable,
    /// The point of no return: from the moment it is sent, only its own definite refusal or an accepted cancel turns back.
    Pivot,
    /// After the pivot: tried until it succeeds.
    Retriable,
}

/// A step: an action of a service, and how to undo it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The action, unique in the saga.
    pub name: String,
    /// Whose action it is: `<name>-service`.
    pub service: String,
    /// The action of the same service that undoes it.
    pub compensation: Option<String>,
    /// What may become of it.
    pub kind: Kind,
    /// How long one try may take.
    pub timeout_ms: u64,
    /// How many tries without an answer are made before the step counts as failed; only before the pivot.
    pub attempts: u32,
    /// The wait after the first try.
    pub first_ms: u64,
    /// The longest wait between tries.
    pub max_ms: u64,
}

impl Step {
    /// How long one try may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// How tries are spaced.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        Backoff { first: Duration::from_millis(self.first_ms), max: Duration::from_millis(self.max_ms) }
    }
}

/// A checked definition. It is kept whole in the event that starts a saga: a saga ends by the definition it began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// How long a saga may take before it turns back, if it has not reached the pivot.
    pub timeout_ms: u64,
    /// What is done, in order.
    pub steps: Vec<Step>,
}

/// The actions that each service offers, by the service's name.
pub type Offers<'a> = BTreeMap<&'a str, &'a [&'a str]>;

/// Why a definition is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The line to blame, from 1; 0 if no line is.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.reason)
    }
}
impl std::error::Error for Refused {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SagaForm {
    name: Spanned<String>,
    timeout: Option<Spanned<String>>,
    steps: Spanned<Vec<StepForm>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StepForm {
    name: Spanned<String>,
    service: Spanned<String>,
    compensation: Option<Spanned<String>>,
    #[serde(default)]
    kind: Kind,
    timeout: Option<Spanned<String>>,
    retry: Option<RetryForm>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryForm {
    attempts: Option<Spanned<u32>>,
    first: Option<Spanned<String>>,
    max: Option<Spanned<String>>,
}

const NO_COMPENSATION: &str = "none";
const MAX_STEPS: usize = 32;
const MAX_ATTEMPTS: u32 = 100;
const SAGA_TIMEOUT: Duration = Duration::from_secs(30);
const STEP_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: u32 = 3;
const FIRST: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(3600);

fn refuse<T>(at: &Spanned<T>, reason: impl Into<String>) -> Refused {
    Refused { line: at.referenced.line(), reason: reason.into() }
}

impl Definition {
    /// Reads and checks a definition; every service and action must be among `offers`.
    ///
    /// # Errors
    /// The first thing wrong with it, with its line.
    pub fn from_yaml(text: &str, offers: &Offers<'_>) -> Result<Definition, Refused> {
        let form: SagaForm = serde_saphyr::from_str(text).map_err(|why| Refused {
            line: why.location().map_or(0, |location| location.line()),
            reason: why.without_snippet().to_string(),
        })?;
        word("a saga's name", &form.name)?;
        if form.steps.value.is_empty() || form.steps.value.len() > MAX_STEPS {
            return Err(refuse(
                &form.steps,
                format!("a saga has 1 to {MAX_STEPS} steps, not {}", form.steps.value.len()),
            ));
        }
        for (n, step) in form.steps.value.iter().enumerate() {
            check(step, &form.steps.value[..n], offers)?;
        }
        let timeout_ms = duration(form.timeout.as_ref(), SAGA_TIMEOUT)?;
        let steps = form.steps.value.iter().map(build).collect::<Result<_, _>>()?;
        Ok(Definition { name: form.name.value, timeout_ms, steps })
    }

    /// The command id of a step, or of its undo, in the saga with this stream.
    #[must_use]
    pub fn command_id(&self, saga: &str, step: usize, undo: bool) -> String {
        format!("{saga}/{}/{}", self.steps[step].name, if undo { "undo" } else { "do" })
    }
}

fn word(what: &str, text: &Spanned<String>) -> Result<(), Refused> {
    let fits = (1..=64).contains(&text.value.len())
        && text.value.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    if fits {
        Ok(())
    } else {
        Err(refuse(text, format!("{what} is 1 to 64 of a-z, 0-9 and '_', not {:?}", text.value)))
    }
}

fn check(step: &StepForm, before: &[StepForm], offers: &Offers<'_>) -> Result<(), Refused> {
    let name = &step.name.value;
    word("a step's name", &step.name)?;
    if before.iter().any(|other| other.name.value == *name) {
        return Err(refuse(&step.name, format!("step {name} stands twice; command ids are made of names")));
    }
    let service = &step.service.value;
    if !service.ends_with("-service") {
        return Err(refuse(&step.service, format!("a service is named <name>-service, not {service:?}")));
    }
    let Some(offered) = offers.get(service.as_str()) else {
        return Err(refuse(
            &step.service,
            format!("there is no {service}; there are {:?}", offers.keys().collect::<Vec<_>>()),
        ));
    };
    let compensation = step.compensation.as_ref().filter(|undo| undo.value != NO_COMPENSATION);
    for action in [Some(&step.name), compensation].into_iter().flatten() {
        if !offered.contains(&action.value.as_str()) {
            return Err(refuse(
                action,
                format!("{service} has no idempotent action {}; it has {offered:?}", action.value),
            ));
        }
    }
    check_kind(step, before)
}

fn check_kind(step: &StepForm, before: &[StepForm]) -> Result<(), Refused> {
    let name = &step.name.value;
    let after = |kind| before.iter().any(|other| other.kind == kind);
    match (step.kind, &step.compensation) {
        (Kind::Compensatable, _) if after(Kind::Pivot) || after(Kind::Retriable) => Err(refuse(
            &step.name,
            format!("step {name} can be undone, but stands after the pivot, from where nothing is"),
        )),
        (Kind::Pivot, _) if after(Kind::Pivot) || after(Kind::Retriable) => {
            Err(refuse(&step.name, format!("step {name} is a second point of no return; a saga has one pivot at most")))
        }
        (Kind::Retriable, Some(undo)) => {
            Err(refuse(undo, format!("step {name} is tried until it succeeds; its compensation would never be used")))
        }
        (Kind::Compensatable, Some(undo)) if undo.value == NO_COMPENSATION => Err(refuse(
            undo,
            format!("step {name} can be undone, so it needs a compensation; only a pivot may have none"),
        )),
        (Kind::Compensatable | Kind::Pivot, None) => Err(refuse(
            &step.name,
            format!("step {name} has no compensation; a pivot that cannot be undone says `compensation: none`"),
        )),
        _ => Ok(()),
    }
}

fn build(form: &StepForm) -> Result<Step, Refused> {
    let retry = form.retry.as_ref();
    let attempts = retry.and_then(|retry| retry.attempts.as_ref());
    if let Some(attempts) = attempts.filter(|attempts| !(1..=MAX_ATTEMPTS).contains(&attempts.value)) {
        return Err(refuse(attempts, format!("attempts are 1 to {MAX_ATTEMPTS}, not {}", attempts.value)));
    }
    let first_ms = duration(retry.and_then(|retry| retry.first.as_ref()), FIRST)?;
    let max_ms = duration(retry.and_then(|retry| retry.max.as_ref()), MAX.max(Duration::from_millis(first_ms)))?;
    if max_ms < first_ms {
        let at = retry.and_then(|retry| retry.max.as_ref()).unwrap_or(&form.name);
        return Err(refuse(at, "the longest wait (max) is shorter than the first"));
    }
    let compensation = form.compensation.as_ref().map(|undo| undo.value.clone()).filter(|undo| undo != NO_COMPENSATION);
    Ok(Step {
        name: form.name.value.clone(),
        service: form.service.value.clone(),
        compensation,
        kind: form.kind,
        timeout_ms: duration(form.timeout.as_ref(), STEP_TIMEOUT)?,
        attempts: attempts.map_or(ATTEMPTS, |attempts| attempts.value),
        first_ms,
        max_ms,
    })
}

/// Reads `500ms`, `2s` or `1m` as milliseconds.
fn duration(text: Option<&Spanned<String>>, default: Duration) -> Result<u64, Refused> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let Some(text) = text else { return Ok(millis(default)) };
    let digits = text.value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text.value[digits.len()..] {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        _ => None,
    };
    let read = unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit));
    match read {
        Some(read @ 1..) if read <= millis(LONGEST) => Ok(read),
        _ => Err(refuse(text, format!("a duration is 1ms to 60m, such as 500ms, 2s or 1m, not {:?}", text.value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Definition, Refused> {
        let offers = Offers::from([
            ("inventory-service", ["reserve_inventory", "release_inventory"].as_slice()),
            ("payment-service", &["charge_payment", "refund_payment"]),
            ("shipping-service", &["create_shipment", "cancel_shipment"]),
            ("order-service", &["confirm_order"]),
        ]);
        Definition::from_yaml(text, &offers)
    }

    const ARTICLE: &str = "name: checkout
steps:
  - name: reserve_inventory
    service: inventory-service
    compensation: release_inventory
  - name: charge_payment
    service: payment-service
    compensation: refund_payment
  - name: create_shipment
    service: shipping-service
    compensation: cancel_shipment
";

    #[test]
    fn the_form_of_the_article_is_read_with_defaults() {
        let saga = read(ARTICLE).unwrap();
        assert_eq!((saga.name.as_str(), saga.timeout_ms, saga.steps.len()), ("checkout", 30_000, 3));
        let charge = &saga.steps[1];
        assert_eq!((charge.kind, charge.timeout_ms, charge.attempts), (Kind::Compensatable, 2_000, 3));
        assert_eq!(saga.command_id("saga-1", 1, true), "saga-1/charge_payment/undo");
    }

    #[test]
    fn timeout_retry_and_kind_are_read() {
        let text = format!(
            "{ARTICLE}    kind: pivot\n    timeout: 500ms\n    retry: {{attempts: 5, first: 50ms, max: 1m}}\n  - name: confirm_order\n    service: order-service\n    kind: retriable\n"
        );
        let saga = read(&text.replace("steps:", "timeout: 2m\nsteps:")).unwrap();
        let pivot = &saga.steps[2];
        assert_eq!((saga.timeout_ms, pivot.kind, pivot.timeout_ms), (120_000, Kind::Pivot, 500));
        assert_eq!((pivot.attempts, pivot.first_ms, pivot.max_ms), (5, 50, 60_000));
        assert_eq!(saga.steps[3].kind, Kind::Retriable);
    }

    /// SG-11: what could strand an order is refused with line and reason.
    #[test]
    fn mistakes_are_refused_with_line_and_reason() {
        let after_pivot =
            ARTICLE.replace("compensation: refund_payment", "compensation: refund_payment\n    kind: pivot");
        let second_pivot = after_pivot.clone() + "    kind: pivot\n";
        let cases = [
            (ARTICLE.replace("    compensation: refund_payment\n", ""), 6, "has no compensation"),
            (after_pivot, 10, "stands after the pivot"),
            (second_pivot, 10, "one pivot at most"),
            (ARTICLE.replace("payment-service", "payments-service"), 7, "there is no payments-service"),
            (ARTICLE.replace("payment-service", "payment"), 7, "<name>-service"),
            (ARTICLE.replace("refund_payment", "refund"), 8, "no idempotent action refund"),
            (ARTICLE.replace("refund_payment", "none"), 8, "only a pivot may have none"),
            (ARTICLE.replace("name: charge_payment", "name: charge"), 6, "no idempotent action charge"),
            (ARTICLE.replace("charge_payment", "reserve_inventory"), 6, "stands twice"),
            (ARTICLE.replace("name: charge_payment", "name: Charge"), 6, "a-z"),
            (ARTICLE.to_owned() + "    timeout: soon\n", 12, "a duration is"),
            (ARTICLE.to_owned() + "    timeout: 0s\n", 12, "a duration is"),
            (ARTICLE.to_owned() + "    timeout: 99999999999999999999s\n", 12, "a duration is"),
            (ARTICLE.to_owned() + "    retry: {attempts: 0}\n", 12, "attempts are 1 to 100"),
            (ARTICLE.to_owned() + "    retry: {first: 2s, max: 1s}\n", 12, "shorter than the first"),
            (ARTICLE.to_owned() + "    kind: maybe\n", 12, "maybe"),
            (ARTICLE.to_owned() + "    colour: red\n", 12, "colour"),
            (
                ARTICLE.to_owned()
                    + "  - name: confirm_order\n    service: order-service\n    kind: retriable\n    compensation: confirm_order\n",
                15,
                "never be used",
            ),
            ("name: checkout\nsteps: []\n".to_owned(), 2, "1 to 32 steps"),
            ("steps: [".to_owned(), 1, ""),
        ];
        for (text, line, reason) in cases {
            let refused = read(&text).expect_err(&text);
            assert!(refused.line == line && refused.reason.contains(reason), "{refused} in\n{text}");
        }
    }

    /// A whole definition, and what may be put in the place of a part of it.
    const WHOLE: &str = "name: checkout
timeout: 30s
steps:
  - {name: reserve_inventory, service: inventory-service, compensation: release_inventory}
  - {name: charge_payment, service: payment-service, compensation: refund_payment, timeout: 500ms}
  - {name: create_shipment, service: shipping-service, compensation: cancel_shipment, kind: pivot}
  - {name: confirm_order, service: order-service, kind: retriable, retry: {attempts: 5, first: 50ms, max: 1m}}
";
    const PARTS: [&str; 31] = [
        "checkout",
        "30s",
        "500ms",
        "reserve_inventory",
        "release_inventory",
        "charge_payment",
        "refund_payment",
        "create_shipment",
        "cancel_shipment",
        "confirm_order",
        "inventory-service",
        "payment-service",
        "order-service",
        "compensation: ",
        "kind: pivot",
        "timeout: 500ms",
        "kind: retriable",
        "retry: ",
        "attempts: 5",
        "first: 50ms",
        "max: 1m",
        "name: ",
        "- {",
        "}",
        "\n",
        ", ",
        "5",
        "1m",
        "timeout: ",
        "none",
        "é",
    ];

    /// What every saga that starts may rely on.
    fn keeps_the_rules(saga: &Definition) -> bool {
        let kinds: Vec<_> = saga.steps.iter().map(|step| step.kind).collect();
        let turn = kinds.iter().position(|kind| *kind != Kind::Compensatable).unwrap_or(kinds.len());
        let names: std::collections::BTreeSet<_> = saga.steps.iter().map(|step| &step.name).collect();
        let fits = |step: &Step| {
            let undone = step.compensation.is_some();
            let undo_fits = match step.kind {
                Kind::Compensatable => undone,
                Kind::Pivot => true,
                Kind::Retriable => !undone,
            };
            undo_fits
                && (1..=100).contains(&step.attempts)
                && step.first_ms <= step.max_ms
                && [step.timeout_ms, step.first_ms, step.max_ms].iter().all(|ms| (1..=3_600_000).contains(ms))
        };
        let after_the_turn = kinds.iter().skip(turn + 1);
        !kinds.is_empty()
            && names.len() == kinds.len()
            && after_the_turn.into_iter().all(|kind| *kind == Kind::Retriable)
            && saga.steps.iter().all(fits)
            && (1..=3_600_000).contains(&saga.timeout_ms)
    }

    proptest::proptest! {
            #![proptest_config(proptest::prelude::ProptestConfig { cases: 1_500, failure_persistence: None, ..Default::default() })]

            #[test]
            fn whatever_is_given_is_read_or_refused(text in "[a-z:\\- \n\\[\\]{}\"'#&*!|>]{0,200}") {
                let _ = read(&text);
            }

            /// Parts exchanged, lines left out or doubled: what is read keeps the rules, and what is refused is refused by line.
            #[test]
            fn a_definition_with_mistakes_keeps_the_rules_or_is_refused_by_line(
                exchanged in proptest::collection::vec((0..PARTS.len(), 0..PARTS.len(), 0..4_usize), 0..3),
                lines in proptest::collection::vec((0..7_usize, proptest::bool::ANY), 0..2),
            ) {
                let mut text = WHOLE.to_owned();
                for (part, by, nth) in exchanged {
    let found: Vec<_> = text.match_indices(PARTS[part]).map(|(at, _)| at).collect();
                    if let Some(at) = found.get(nth % found.len().max(1)) {
                        text.replace_range(*at..at + PARTS[part].len(), PARTS[by]);
                    }
                }
                for (line, twice) in lines {
                    let mut all: Vec<_> = text.lines().map(str::to_owned).collect();
                    if line < all.len() {
                        if twice { all.insert(line, all[line].clone()) } else { drop(all.remove(line)) }
                    }
                    text = all.join("\n") + "\n";
                }
                match read(&text) {
                    Ok(saga) => proptest::prop_assert!(keeps_the_rules(&saga), "{:?} of\n{}", saga, text),
                    Err(refused) => proptest::prop_assert!(
                        (1..=text.lines().count() as u64 + 1).contains(&refused.line) && !refused.reason.is_empty(),
                        "{} of\n{}", refused, text
                    ),
                }
            }
        }
}
