//! The schemas of messages and enums, in the form in which JSON has them here; the words are the comments of the .proto
//! files.
use std::collections::BTreeMap;

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value as Json, json};

use crate::openapi_parts;

/// The largest whole number that every reader of JSON keeps exact; amounts stay below it.
pub(crate) const MAX_EXACT: i64 = (1 << 53) - 1;

/// The option of a field that says what it takes in a request.
const TAKES: &str = "shop.http.v1.takes";

/// The form of a text of a request of which nothing else is said: the gateway takes no control characters in paths and
/// queries, the services none in bodies.
const PLAIN: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

/// The form of a text that must be given: it has something that can be seen, and nothing that changes the direction of writing.
/// What cannot be seen beyond U+FFFF is left out, for programs do not read such a pattern alike; the services refuse it too.
const SEEN: &str = concat!(
    r"^[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]*",
    r"[^\u0000-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f",
    r"\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8]",
    r"[^\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]*$",
);

/// In which direction a message goes. What is answered has all its fields; what is asked has no others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// From the client.
    Request,
    /// To the client.
    Answer,
}

/// The schemas that were referred to, by the names that clients see.
#[derive(Default)]
pub(crate) struct Schemas {
    finished: BTreeMap<String, Json>,
    origins: BTreeMap<String, String>,
}

impl Schemas {
    /// All of them.
    pub(crate) fn into_json(self) -> BTreeMap<String, Json> {
        self.finished
    }

    /// The body of a request: the message without what the path says.
    ///
    /// # Errors
    /// A sentence that names what has no schema, or two things of one name.
    pub(crate) fn body(&mut self, message: &MessageDescriptor, in_path: &[&str]) -> Result<Json, String> {
        let name = message.name();
        let name = if name.ends_with("Request") { name.to_owned() } else { format!("{name}Input") };
        let left_out: String = in_path.iter().map(|field| format!(" without {field}")).collect();
        let origin = format!("{} in requests{left_out}", message.full_name());
        self.define(name, origin, |schemas| schemas.object(message, Side::Request, in_path))
    }

    /// The schema of a whole message.
    ///
    /// # Errors
    /// As of [`Schemas::body`].
    pub(crate) fn message(&mut self, message: &MessageDescriptor, side: Side) -> Result<Json, String> {
        match message.full_name() {
            "google.protobuf.Timestamp" => Ok(json!({"type": "string", "format": "date-time"})),
            "google.protobuf.Struct" => Ok(json!({"type": "object", "additionalProperties": true})),
            known if known.starts_with("google.protobuf.") => Err(format!("{known} has no schema yet")),
            _ if side == Side::Request => self.body(message, &[]),
            full_name => self.define(message.name().to_owned(), full_name.to_owned(), |schemas| {
                schemas.object(message, Side::Answer, &[])
            }),
        }
    }

    /// The schema of a field, without its description.
    ///
    /// # Errors
    /// As of [`Schemas::body`].
    pub(crate) fn field(&mut self, field: &FieldDescriptor, side: Side) -> Result<Json, String> {
        if let Kind::Message(entry) = field.kind()
            && field.is_map()
        {
            let value = self.field(&entry.map_entry_value_field(), side)?;
            return Ok(json!({"type": "object", "additionalProperties": value}));
        }
        let one = match field.kind() {
            Kind::Message(message) => self.message(&message, side)?,
            Kind::Enum(values) => {
                self.define(values.name().to_owned(), values.full_name().to_owned(), |_| Ok(enumeration(&values)))?
            }
            Kind::Bool => json!({"type": "boolean"}),
            Kind::String => json!({"type": "string"}),
            Kind::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
            Kind::Float => json!({"type": "number", "format": "float"}),
            Kind::Double => json!({"type": "number", "format": "double"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({"type": "integer", "format": "int32"}),
            Kind::Uint32 | Kind::Fixed32 => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({"type": "integer", "format": "int64", "maximum": MAX_EXACT})
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_EXACT})
            }
        };
        let mut schema = if field.is_list() { json!({"type": "array", "items": one}) } else { one };
        if side == Side::Request {
            limit(&mut schema, field);
        }
        Ok(schema)
    }

    fn object(&mut self, message: &MessageDescriptor, side: Side, left_out: &[&str]) -> Result<Json, String> {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in message.fields().filter(|field| !left_out.contains(&field.name())) {
            let mut schema = self.field(&field, side)?;
            schema["description"] = comment(&field.parent_file(), field.path()).into();
            let needed = match side {
                Side::Request => takes(&field).is_some_and(|takes| takes.has_field_by_name("required")),
                // Defaults are printed: only a field that knows whether it is there may be absent.
                Side::Answer => !field.supports_presence(),
            };
            match schema.get_mut("type") {
                _ if needed => required.push(field.name().to_owned()),
                // What may be absent may be null, as the proto3 mapping has it.
                Some(kind) if side == Side::Request => *kind = json!([kind, "null"]),
                _ => {}
            }
            properties.insert(field.name().to_owned(), schema);
        }
        let text = comment(&message.parent_file(), message.path());
        let mut schema = json!({"type": "object", "description": text, "properties": properties, "required": required});
        if side == Side::Request {
            schema["additionalProperties"] = false.into();
        }
        if let Some(example) = openapi_parts::example(message.full_name()) {
            schema["examples"] = json!([example]);
        }
        Ok(schema)
    }

    /// Defines a schema unless it is there, and refers to it.
    pub(crate) fn define(
        &mut self,
        name: String,
        origin: String,
        schema: impl FnOnce(&mut Schemas) -> Result<Json, String>,
    ) -> Result<Json, String> {
        let reference = json!({"$ref": format!("#/components/schemas/{name}")});
        match self.origins.get(&name) {
            Some(known) if *known == origin => {}
            Some(known) => return Err(format!("{known} and {origin} would both be the schema {name}")),
            None => {
                // Known before it is finished: a message may hold itself.
                self.origins.insert(name.clone(), origin);
                let schema = schema(self)?;
                self.finished.insert(name, schema);
            }
        }
        Ok(reference)
    }
}

/// What the .proto file says of what a field takes in a request.
fn takes(field: &FieldDescriptor) -> Option<DynamicMessage> {
    let extension = field.parent_pool().get_extension_by_name(TAKES)?;
    let options = field.options();
    options.has_extension(&extension).then(|| options.get_extension(&extension).as_message().cloned())?
}

/// Puts what a field takes in a request into its schema.
fn limit(schema: &mut Json, field: &FieldDescriptor) {
    let (least, most) = match field.kind() {
        _ if field.is_list() => ("minItems", "maxItems"),
        Kind::String => ("minLength", "maxLength"),
        _ => ("minimum", "maximum"),
    };
    if least == "minLength" {
        schema["pattern"] = PLAIN.into();
    }
    let Some(takes) = takes(field) else { return };
    let at_least = takes.get_field_by_name("min").and_then(|least| least.as_i64()).unwrap_or_default();
    if least == "minLength" && at_least > 0 {
        schema["pattern"] = SEEN.into();
    }
    for (option, keyword) in [("min", least), ("max", most), ("pattern", "pattern")] {
        let said = takes.get_field_by_name(option).filter(|_| takes.has_field_by_name(option));
        if let Some(said) = said {
            schema[keyword] = said.as_i64().map_or_else(|| said.as_str().into(), Json::from);
        }
    }
}

fn enumeration(values: &EnumDescriptor) -> Json {
    let names: Vec<_> = values.values().map(|value| value.name().to_owned()).collect();
    let file = values.parent_file();
    let lines = values.values().map(|value| format!("- `{}`: {}", value.name(), comment(&file, value.path())));
    let text = format!("{}\n\n{}", comment(&file, values.path()), lines.collect::<Vec<_>>().join("\n"));
    json!({"type": "string", "description": text, "enum": names})
}

/// The comment before a definition, or else the one behind it; empty if it has none.
pub(crate) fn comment(file: &FileDescriptor, path: &[i32]) -> String {
    let source = file.file_descriptor_proto().source_code_info.as_ref();
    let Some(place) = source.and_then(|source| source.location.iter().find(|place| place.path == path)) else {
        return String::new();
    };
    let texts = [place.leading_comments(), place.trailing_comments()];
    let text = texts.into_iter().find(|text| !text.trim().is_empty()).unwrap_or_default();
    text.trim().lines().map(str::trim).collect::<Vec<_>>().join("\n")
}
