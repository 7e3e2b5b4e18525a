//! Between JSON and protobuf, along the descriptors: the proto3 JSON mapping, with the names of the .proto files.
use std::io;

use host::error::Refusal;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, ReflectMessage, SerializeOptions, Value};
use serde_json::ser::{CompactFormatter, Formatter, Serializer};
use serde_json::{Deserializer, Map, Value as Json};
use tonic::Code;

use crate::openapi_schemas::MAX_EXACT;
use crate::routes::Route;
use crate::target;

const IN: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(true);
const OUT: SerializeOptions =
    SerializeOptions::new().stringify_64_bit_integers(false).use_proto_field_name(true).skip_default_fields(false);

/// A successful answer.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The resource.
    pub(crate) json: Vec<u8>,
    /// Where it can be read.
    pub(crate) location: Option<String>,
    /// The resource before it was JSON.
    pub(crate) shown: DynamicMessage,
}

/// Reads a body.
///
/// # Errors
/// INVALID_ARGUMENT with the path of the field to blame.
pub(crate) fn body(message: &MessageDescriptor, json: &[u8]) -> Result<DynamicMessage, Refusal> {
    let mut source = Deserializer::from_slice(json);
    let read = DynamicMessage::deserialize_with_options(message.clone(), &mut source, &IN);
    read.and_then(|read| source.end().map(|()| read)).map_err(|why| {
        // The path to a mistake costs time to keep, so it is only sought once a body is known to be wrong.
        match tracked(message, &mut Deserializer::from_slice(json)) {
            Err(refusal) => refusal,
            Ok(_) => malformed(why), // something stands after its end
        }
    })
}

/// Reads the parameters of a path and a query. They take the same road and checks as a body.
///
/// # Errors
/// INVALID_ARGUMENT with the parameter to blame.
pub(crate) fn parameters(message: &MessageDescriptor, pairs: &[(String, String)]) -> Result<DynamicMessage, Refusal> {
    let mut json = Map::new();
    for (name, value) in pairs {
        let Some(field) = message.get_field_by_name(name) else {
            return Err(Refusal::invalid(name, format!("there is no parameter {name}")));
        };
        let value = match (field.kind(), value.as_str()) {
            (prost_reflect::Kind::Bool, "true") => Json::Bool(true),
            (prost_reflect::Kind::Bool, "false") => Json::Bool(false),
            (prost_reflect::Kind::Message(kind), text) if kind.full_name() == "google.protobuf.Timestamp" => {
                Json::from(timestamp(text))
            }
            (_, text) => Json::from(text),
        };
        if !field.is_list() {
            if json.insert(name.clone(), value).is_some() {
                return Err(Refusal::invalid(name, format!("parameter {name} is given twice")));
            }
        } else if let Some(values) = json.entry(name).or_insert_with(|| Json::Array(Vec::new())).as_array_mut() {
            values.push(value);
        }
    }
    tracked(message, Json::Object(json))
}

/// A moment in the one form of RFC 3339 that is read here, if it is in one of the others: in lower case, with more digits than count,
/// or with a + that nobody escaped, which is a blank in a query.
fn timestamp(text: &str) -> String {
    let mut text = text.to_ascii_uppercase();
    let zone = text.len().saturating_sub("+09:00".len());
    if let Some([b' ', h, m, b':', minutes @ ..]) = text.as_bytes().get(zone..)
        && [h, m].into_iter().chain(minutes).all(u8::is_ascii_digit)
    {
        text.replace_range(zone..=zone, "+");
    }
    let Some((whole, rest)) = text.split_once('.') else { return text };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    format!("{whole}.{}{}", &rest[..digits.min(9)], &rest[digits..])
}

/// Puts what the path says about `names` into what the body says.
///
/// # Errors
/// INVALID_ARGUMENT if the body says something else than the path.
pub(crate) fn merge<'a>(
    mut body: DynamicMessage,
    path: &DynamicMessage,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<DynamicMessage, Refusal> {
    let message = body.descriptor();
    for field in names.into_iter().filter_map(|name| message.get_field_by_name(name)) {
        let (name, value) = (field.name(), path.get_field(&field));
        if body.has_field(&field) && body.get_field(&field) != value {
            return Err(Refusal::invalid(name, format!("{name} is not the one in the path; leave it out of the body")));
        }
        body.set_field(&field, value.into_owned());
    }
    Ok(body)
}

/// Writes the answer to a route's RPC as JSON.
///
/// # Errors
/// Why the answer is not what the descriptors promise.
pub(crate) fn answer(route: &Route, wire: bytes::Bytes) -> Result<Answer, String> {
    let rpc = route.grpc.path();
    let whole = DynamicMessage::decode(route.output.clone(), wire).map_err(|why| format!("{rpc} answered {why}"))?;
    let resource = match &route.resource {
        None => whole,
        Some(field) if !whole.has_field(field) => return Err(format!("{rpc} answered without {}", field.name())),
        Some(field) => match whole.get_field(field).into_owned() {
            Value::Message(resource) => resource,
            other => return Err(format!("{rpc} answered {other:?} as {}", field.name())),
        },
    };
    let mut json = Vec::with_capacity(512);
    let written = resource.serialize_with_options(&mut Serializer::with_formatter(&mut json, Whole), &OUT);
    written.map_err(|why| format!("the answer of {rpc} is not JSON: {why}"))?;
    let location = route.location.as_deref().map(|template| filled(template, &resource));
    Ok(Answer { json, location, shown: resource })
}

/// Writes JSON as usual, but whole numbers without a fraction: free JSON (`Struct`) has only doubles, and programs that read
/// an amount as an integer stumble over `2.0`.
struct Whole;

impl Formatter for Whole {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        match value.fract() == 0.0 && value.abs() <= MAX_EXACT as f64 {
            true => self.write_i64(writer, value as i64),
            false => CompactFormatter.write_f64(writer, value),
        }
    }
}

/// A template of a path with the fields of a resource in its places.
fn filled(template: &str, resource: &DynamicMessage) -> String {
    let mut parts = template.split(['{', '}']);
    let mut path = parts.next().unwrap_or_default().to_owned();
    // Names and literals alternate: the templates were checked when the routes were read.
    while let Some(name) = parts.next() {
        let value = resource.get_field_by_name(name);
        let text = value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        path.push_str(&target::encode(&text.unwrap_or_default()));
        path.push_str(parts.next().unwrap_or_default());
    }
    path
}

/// Reads JSON and keeps the path to the mistake.
fn tracked<'de, D>(message: &MessageDescriptor, source: D) -> Result<DynamicMessage, Refusal>
where
    D: serde::Deserializer<'de>,
    D::Error: std::fmt::Display,
{
    let mut track = serde_path_to_error::Track::new();
    let source = serde_path_to_error::Deserializer::new(source, &mut track);
    DynamicMessage::deserialize_with_options(message.clone(), source, &IN).map_err(|why| {
        let why = why.to_string();
        let path = Some(track.path().to_string()).filter(|path| path != "." && !path.contains('?'));
        match (unknown_field(&why), path) {
            (Some(name), Some(path)) => Refusal::invalid(format!("{path}.{name}"), format!("{path}: {why}")),
            (Some(name), None) => Refusal::invalid(name, &why),
            (None, Some(path)) => Refusal::invalid(&path, format!("{path}: {why}")),
            (None, None) => malformed(why),
        }
    })
}

/// The name in prost-reflect's message about an unknown field: the path then only leads to what holds it.
fn unknown_field(why: &str) -> Option<&str> {
    why.strip_prefix("unrecognized field name '")?.split_once('\'').map(|(name, _)| name)
}

fn malformed(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::InvalidArgument, "malformed_json", format!("the body is not the JSON this takes: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serialize;

    #[test]
    fn whole_numbers_are_written_without_a_fraction_and_others_exactly() {
        for (value, written) in [
            (2.0, "2"),
            (-3.0, "-3"),
            (0.0, "0"),
            (0.5, "0.5"),
            (9_007_199_254_740_991.0, "9007199254740991"),
            (1e300, "1e+300"),
        ] {
            let mut json = Vec::new();
            value.serialize(&mut Serializer::with_formatter(&mut json, Whole)).unwrap();
            assert_eq!(String::from_utf8(json).unwrap(), written);
        }
    }
}
