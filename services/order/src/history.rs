//! What happened to an order, and what it was: the audit trail and time travel.
//!
//! # Problem
//! A row that is overwritten cannot tell how it came about, nor what somebody saw yesterday.
//!
//! # Pattern
//! Event sourcing: the events are the order; what it was is a fold of those that had happened by then.
//!
//! # Here
//! Both read the order's own stream, which every change of it is committed to. Whoever may see the order may see all of it.
//!
//! # Limits
//! The steps of its sagas are streams of their own and not shown here. Moments are judged by when events were recorded.
use clock::Timestamp;
use decider::Decider;
use host::call::Caller;
use host::check;
use host::error::Refusal;
use host::use_case::unavailable;
use proto::order::{GetOrderRequest, ListOrderEventsRequest, OrderEvent};
use serde_json::Value;
use store::Recorded;
use store::folded::{self, Folded};
use tonic::Code;

use crate::ledger::order_stream;
use crate::order::Order;
use crate::service::{Answer, Orders};

impl Orders {
    /// The caller's own order as it was at the version or the moment asked for.
    pub(crate) async fn as_it_was(&self, caller: &Caller, request: GetOrderRequest) -> Result<Answer, Refusal> {
        let GetOrderRequest { order_id, at_version, at_time } = request;
        let events = self.own_history(caller, &order_id).await?;
        let happened = match (at_version, at_time) {
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid("at_time", "ask for a version or for a moment, not for both"));
            }
            (Some(version), None) => {
                let present = events.len() as i64;
                if !(1..=present).contains(&version) {
                    let message = format!("the order has versions 1 to {present}, not {version}");
                    return Err(Refusal::new(Code::OutOfRange, "no_such_version", message).field("at_version"));
                }
                events.iter().take_while(|event| event.version as i64 <= version).collect::<Vec<_>>()
            }
            (None, at_time) => {
                let moment = moment(&at_time.unwrap_or_default())?;
                events.iter().take_while(|event| event.timestamp <= moment).collect()
            }
        };
        if happened.is_empty() {
            return Err(Refusal::not_found("the order was not placed by then"));
        }
        let mut order = Folded::<Order>::default();
        for recorded in happened {
            let event = folded::decode(recorded).map_err(unavailable)?;
            order = Folded { state: order.state.evolve(&event), version: recorded.version };
        }
        Ok((order_id, order))
    }

    /// Everything that happened to the caller's own order.
    pub(crate) async fn events(
        &self,
        caller: &Caller,
        request: ListOrderEventsRequest,
    ) -> Result<Vec<OrderEvent>, Refusal> {
        self.own_history(caller, &request.order_id).await?.into_iter().map(shown).collect()
    }

    async fn own_history(&self, caller: &Caller, order_id: &str) -> Result<Vec<Recorded>, Refusal> {
        check::id("order_id", order_id)?;
        self.own(caller, order_id).await?;
        folded::history(self.ledger.store.as_ref(), &order_stream(order_id)).await.map_err(unavailable)
    }
}

fn moment(at_time: &prost_types::Timestamp) -> Result<Timestamp, Refusal> {
    let micros =
        at_time.seconds.checked_mul(1_000_000).and_then(|micros| micros.checked_add(i64::from(at_time.nanos) / 1_000));
    micros.map(Timestamp).ok_or_else(|| Refusal::invalid("at_time", "at_time is a moment of the years 1 to 9999"))
}

pub(crate) fn shown(recorded: Recorded) -> Result<OrderEvent, Refusal> {
    let Recorded { version, timestamp, event, meta, stream, .. } = recorded;
    let Ok(Value::Object(data)) = serde_json::from_str(&event.data) else {
        return Err(unavailable(store::ReadError::Corrupt(format!("{stream} version {version} is no JSON object"))));
    };
    Ok(OrderEvent {
        event_id: event.id.to_string(),
        version: i64::try_from(version).unwrap_or(i64::MAX),
        r#type: event.kind,
        recorded_at: Some(crate::grpc::time(timestamp)),
        actor: meta.actor,
        causation_id: meta.causation_id,
        trace_id: telemetry::trace::trace_id(&meta.traceparent).to_owned(),
        data: Some(fields(data)),
    })
}

pub(crate) fn fields(object: serde_json::Map<String, Value>) -> prost_types::Struct {
    prost_types::Struct { fields: object.into_iter().map(|(name, inner)| (name, value(inner))).collect() }
}

fn value(json: Value) -> prost_types::Value {
    use prost_types::value::Kind;
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(truth) => Kind::BoolValue(truth),
        // Amounts and times stay below 2^53, which a double holds exactly.
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.into_iter().map(value).collect() })
        }
        Value::Object(object) => Kind::StructValue(fields(object)),
    };
    prost_types::Value { kind: Some(kind) }
}
