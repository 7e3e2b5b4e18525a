//! The routes, read from the descriptors: a team that adds an RPC with an HTTP rule adds its route.
//!
//! A rule that cannot be served fails the start, not a request.
use std::collections::BTreeMap;
use std::sync::Arc;

use host::transport::Transport;
use http::uri::PathAndQuery;
use http::{Method, StatusCode};
use matchit::Router;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};

use crate::problem::Problem;
use crate::target;

const HTTP_RULE: &str = "google.api.http";
const REST_RULE: &str = "shop.http.v1.rest";
const AUDIENCE_OPERATOR: i32 = 2;

/// One way to call one RPC over HTTP.
pub(crate) struct Route {
    /// GET or POST.
    pub(crate) method: Method,
    /// The path with its variables, such as `/v1/orders/{order_id}`.
    pub(crate) template: String,
    /// Method and template: their number is bounded, so they are fit for labels.
    pub(crate) label: String,
    /// Whether a JSON body is the request; otherwise the query is.
    pub(crate) takes_body: bool,
    /// Whether the body may be missing, because the path says everything.
    pub(crate) body_optional: bool,
    /// Only for operators.
    pub(crate) operators_only: bool,
    /// Whether it heeds `Prefer: wait`.
    pub(crate) waits: bool,
    /// For how many seconds an answer may be kept, for it does not depend on who asks; 0 if it does.
    pub(crate) max_age_s: u32,
    /// The RPC.
    pub(crate) rpc: MethodDescriptor,
    /// The RPC's path.
    pub(crate) grpc: PathAndQuery,
    /// The request's type.
    pub(crate) input: MessageDescriptor,
    /// The answer's type.
    pub(crate) output: MessageDescriptor,
    /// The field of the answer that stands bare in REST; the whole answer if none.
    pub(crate) resource: Option<FieldDescriptor>,
    /// Which fields make server-sent events of a stream; absent if the RPC answers once.
    pub(crate) events: Option<Events>,
    /// The status of a successful answer.
    pub(crate) success: StatusCode,
    /// The template of the `Location` header.
    pub(crate) location: Option<String>,
    /// Where the service is.
    pub(crate) transport: Transport,
}

/// Which fields make a message of a stream a server-sent event.
pub(crate) struct Events {
    /// Of the message: the event's id.
    pub(crate) id: FieldDescriptor,
    /// Of the message: the event's name.
    pub(crate) name: FieldDescriptor,
    /// Of the request: takes the last id seen.
    pub(crate) resume: FieldDescriptor,
}

impl Route {
    /// Whether there is something to say in a body that the path does not say.
    pub(crate) fn needs_body(&self) -> bool {
        self.takes_body && !self.body_optional
    }
}

/// A route and what the path says.
pub(crate) struct Found<'a> {
    /// The route.
    pub(crate) route: &'a Arc<Route>,
    /// The variables of the path, decoded, in the template's order.
    pub(crate) variables: Vec<(&'a str, String)>,
}

/// All routes: a router for each HTTP method.
#[derive(Default)]
pub(crate) struct Table {
    routes: Vec<Arc<Route>>,
    gets: Router<Arc<Route>>,
    posts: Router<Arc<Route>>,
}

impl Table {
    /// Reads the routes of all services.
    ///
    /// # Errors
    /// A sentence that names the RPC whose rule cannot be served, the service that nobody serves, or the upstream that is
    /// no service.
    pub(crate) fn read(pool: &DescriptorPool, upstreams: &BTreeMap<&str, Transport>) -> Result<Table, String> {
        let service_of = |name: &str| name.split('/').next().unwrap_or_default().to_owned();
        if let Some(name) = upstreams.keys().find(|name| pool.get_service_by_name(&service_of(name)).is_none()) {
            return Err(format!("upstream {name} is not a service of the descriptors"));
        }
        let mut table = Table::default();
        for method in pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
            let name = method.full_name().to_owned();
            for rule in rules(pool, &method)? {
                let service = method.parent_service();
                let upstream = |template: &str| {
                    let shared = format!("{}/{}", service.full_name(), segment(template));
                    let transport = upstreams.get(service.full_name()).or_else(|| upstreams.get(shared.as_str()));
                    transport.cloned().ok_or_else(|| "it has an HTTP rule, but no upstream serves it".to_owned())
                };
                let route = route(pool, &method, &rule, upstream).map_err(|why| format!("{name}: {why}"))?;
                let route = Arc::new(route);
                let router = if route.method == Method::GET { &mut table.gets } else { &mut table.posts };
                let inserted = router.insert(&route.template, Arc::clone(&route));
                inserted.map_err(|why| format!("{name}: {} is ambiguous: {why}", route.template))?;
                table.routes.push(route);
            }
        }
        Ok(table)
    }

    /// All of them, in the order of the descriptors.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(Arc::as_ref)
    }

    /// The route of a request; HEAD goes where GET goes.
    ///
    /// # Errors
    /// 404, or 405 with the methods that the path takes.
    pub(crate) fn find<'a>(&'a self, method: &Method, path: &'a str) -> Result<Found<'a>, Problem> {
        // A bare ':' in the last segment starts a verb; an id that has one is written %3A. So an unknown verb is never
        // taken for a part of an id.
        let has_verb = |path: &str| path.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let at = |router: &'a Router<Arc<Route>>| {
            router.at(path).ok().filter(|found| has_verb(path) == has_verb(&found.value.template))
        };
        let (get, post) = (at(&self.gets), at(&self.posts));
        let found = match (get, post) {
            (Some(get), _) if *method == Method::GET || *method == Method::HEAD => get,
            (_, Some(post)) if *method == Method::POST => post,
            (None, None) => return Err(Problem::nothing_at(path)),
            (get, post) => {
                let methods = [get.map(|_| "GET, HEAD"), post.map(|_| "POST")];
                let allow = methods.into_iter().flatten().collect::<Vec<_>>().join(", ");
                return Err(Problem::method_not_allowed(allow));
            }
        };
        let mut variables = Vec::with_capacity(found.params.len());
        for (name, value) in found.params.iter() {
            let value = target::decode(value).map_err(|_| Problem::nothing_here())?;
            variables.push((name, value.into_owned()));
        }
        Ok(Found { route: found.value, variables })
    }
}

/// The HTTP rules of an RPC: none, one, or one and its additional bindings.
fn rules(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<Vec<DynamicMessage>, String> {
    let Some(rule) = option(pool, method, HTTP_RULE)? else {
        return Ok(Vec::new());
    };
    let additional = rule.get_field_by_name("additional_bindings");
    let additional = additional.iter().filter_map(|list| list.as_list()).flatten();
    let additional: Vec<_> = additional.filter_map(|rule| rule.as_message().cloned()).collect();
    Ok([vec![rule], additional].concat())
}

/// An option of an RPC, if it has it.
fn option(pool: &DescriptorPool, method: &MethodDescriptor, name: &str) -> Result<Option<DynamicMessage>, String> {
    let extension = pool.get_extension_by_name(name).ok_or_else(|| format!("the descriptors do not define {name}"))?;
    let options = method.options();
    if !options.has_extension(&extension) {
        return Ok(None);
    }
    Ok(options.get_extension(&extension).as_message().cloned())
}

fn route(
    pool: &DescriptorPool,
    rpc: &MethodDescriptor,
    rule: &DynamicMessage,
    upstream: impl Fn(&str) -> Result<Transport, String>,
) -> Result<Route, String> {
    if rpc.is_client_streaming() {
        return Err("a stream of requests cannot be served over this gateway".to_owned());
    }
    let (method, template) = match (text(rule, "get"), text(rule, "post")) {
        (path, None) if path.is_some() => (Method::GET, path.unwrap_or_default()),
        (None, Some(path)) => (Method::POST, path),
        _ => return Err("a rule is either get or post".to_owned()),
    };
    let takes_body = match text(rule, "body").as_deref() {
        None => false,
        Some("*") if method == Method::POST => true,
        Some(other) => return Err(format!("body: {other:?} cannot be served; a post takes \"*\" or none, a get none")),
    };
    let (input, output) = (rpc.input(), rpc.output());
    let variables = variables(&template)?;
    for name in &variables {
        scalar(&input, name)?;
    }
    let body_optional = input.fields().all(|field| variables.contains(&field.name()));
    let resource = match text(rule, "response_body") {
        None => None,
        Some(name) => Some(message_field(&output, &name)?),
    };
    let shown =
        resource.as_ref().and_then(|field| field.kind().as_message().cloned()).unwrap_or_else(|| output.clone());
    let rest = option(pool, rpc, REST_RULE)?;
    let rest = rest.as_ref();
    let location = rest.and_then(|rest| text(rest, "location"));
    let events = events(rpc, rest, &shown)?;
    if events.is_some() && method != Method::GET {
        return Err("a stream is answered to a get".to_owned());
    }
    for name in self::variables(location.as_deref().unwrap_or("/"))? {
        scalar(&shown, name)?;
    }
    let audience = rest.and_then(|rest| rest.get_field_by_name("audience")?.as_enum_number()).unwrap_or_default();
    if !(0..=AUDIENCE_OPERATOR).contains(&audience) {
        return Err(format!("audience {audience} is unknown"));
    }
    Ok(Route {
        label: format!("{method} {template}"),
        method,
        takes_body,
        body_optional,
        operators_only: audience == AUDIENCE_OPERATOR,
        waits: rest.and_then(|rest| rest.get_field_by_name("waits")?.as_bool()).unwrap_or_default(),
        max_age_s: rest.and_then(|rest| rest.get_field_by_name("max_age_s")?.as_u32()).unwrap_or_default(),
        rpc: rpc.clone(),
        grpc: rpc_path(rpc)?,
        events,
        success: success(rest)?,
        transport: upstream(&template)?,
        template,
        input,
        output,
        resource,
        location,
    })
}

fn events(
    rpc: &MethodDescriptor,
    rest: Option<&DynamicMessage>,
    shown: &MessageDescriptor,
) -> Result<Option<Events>, String> {
    let events = rest
        .filter(|rest| rest.has_field_by_name("events"))
        .and_then(|rest| rest.get_field_by_name("events").and_then(|events| events.as_message().cloned()));
    match events {
        None if !rpc.is_server_streaming() => Ok(None),
        Some(events) if rpc.is_server_streaming() => {
            let name = |field: &str| text(&events, field).unwrap_or_default();
            let (id, resume) = (scalar(shown, &name("id"))?, scalar(&rpc.input(), &name("resume"))?);
            Ok(Some(Events { id, name: scalar(shown, &name("name"))?, resume }))
        }
        _ => Err("a stream of answers says how it becomes events, and nothing else does".to_owned()),
    }
}

/// What a path is about: its segment after the version, such as `order` in `/v1/order/dead-letters`.
pub(crate) fn segment(template: &str) -> &str {
    template.split('/').nth(2).unwrap_or_default()
}

fn rpc_path(rpc: &MethodDescriptor) -> Result<PathAndQuery, String> {
    let path = format!("/{}/{}", rpc.parent_service().full_name(), rpc.name());
    PathAndQuery::try_from(path).map_err(|why| format!("its gRPC path is malformed: {why}"))
}

fn success(rest: Option<&DynamicMessage>) -> Result<StatusCode, String> {
    match rest.and_then(|rest| rest.get_field_by_name("success_status")?.as_i32()).unwrap_or_default() {
        0 => Ok(StatusCode::OK),
        status @ (200..=203 | 205..=299) => {
            let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
            status.ok_or_else(|| "success_status is out of range".to_owned())
        }
        other => Err(format!("success_status {other} is not one of an answer with a body")),
    }
}

fn text(message: &DynamicMessage, field: &str) -> Option<String> {
    let value = message.get_field_by_name(field)?;
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn scalar(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    let field = message.get_field_by_name(name).filter(|field| {
        field.cardinality() != Cardinality::Repeated && !matches!(field.kind(), Kind::Message(_) | Kind::Bytes)
    });
    field.ok_or_else(|| format!("{{{name}}} is not a single plain field of {}", message.full_name()))
}

fn message_field(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, String> {
    let is_message = |field: &FieldDescriptor| {
        field.cardinality() != Cardinality::Repeated && matches!(field.kind(), Kind::Message(_))
    };
    let field = message.get_field_by_name(name).filter(is_message);
    field.ok_or_else(|| format!("response_body: {name} is not a single message of {}", message.full_name()))
}

/// The names of a template's variables.
///
/// # Errors
/// If the template is more than literal segments, `{field}` segments and a verb at the end.
pub(crate) fn variables(template: &str) -> Result<Vec<&str>, String> {
    let refused = || format!("{template} is not a path of literal segments, {{field}} segments and a verb");
    let path = template.strip_prefix('/').ok_or_else(refused)?;
    let (path, verb) = path.rsplit_once(':').unwrap_or((path, "verb"));
    let plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if verb.is_empty() || !plain(verb) {
        return Err(refused());
    }
    let mut names = Vec::new();
    for segment in path.split('/') {
        let variable = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let name = variable.unwrap_or(segment);
        if !plain(name) || (name.is_empty() && !path.is_empty()) || names.contains(&name) {
            return Err(refused());
        }
        names.extend(variable);
    }
    Ok(names)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use host::transport::Transport;
    use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};
    use tonic::Status;
    use tonic::body::Body;

    /// One file from memory.
    struct Given(String);

    impl FileResolver for Given {
        fn open_file(&self, name: &str) -> Result<File, protox::Error> {
            match name {
                "given.proto" => File::from_source(name, &self.0),
                _ => Err(protox::Error::file_not_found(name)),
            }
        }
    }

    /// The table of a service with these RPCs, or why it has none.
    pub(crate) fn table(rpcs: &str) -> Result<Table, String> {
        let source = format!(
            r#"syntax = "proto3"; package given;
            import "google/api/annotations.proto"; import "shop/http/v1/options.proto";
            message Ask {{ string id = 1; int64 size = 2; Thing thing = 3; repeated string names = 4; }}
            message Thing {{ string id = 1; }}
            message Answer {{ Thing thing = 1; string text = 2; repeated Thing things = 3; }}
            service Service {{ {rpcs} }}"#
        );
        let mut resolver = ChainFileResolver::new();
        resolver.add(Given(source));
        resolver.add(IncludeFileResolver::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto").into()));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = protox::Compiler::with_file_resolver(resolver);
        compiler.include_imports(true).open_file("given.proto").unwrap();
        let pool = DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap();
        let nobody = tower::service_fn(|_: http::Request<Body>| async { Err(Status::unavailable("nobody")) });
        Table::read(&pool, &BTreeMap::from([("given.Service", Transport::new(nobody))]))
    }

    /// An RPC with a rule.
    pub(crate) fn rpc(name: &str, rule: &str) -> String {
        format!("rpc {name}(Ask) returns (Answer) {{ option (google.api.http) = {{ {rule} }}; }}")
    }

    fn template(table: &Table, method: &Method, path: &str) -> String {
        table.find(method, path).map_or_else(|_| "none".to_owned(), |found| found.route.label.clone())
    }

    #[test]
    fn an_rpc_with_a_rule_is_a_route_and_one_without_is_none() {
        let additional =
            r#"get: "/a/{id}" additional_bindings { get: "/b/{id}/c" } additional_bindings { post: "/b" body: "*" }"#;
        let found = table(&format!("rpc Hidden(Ask) returns (Answer); {}", rpc("Get", additional))).unwrap();
        assert_eq!(template(&found, &Method::GET, "/a/1"), "GET /a/{id}");
        assert_eq!(template(&found, &Method::HEAD, "/b/1/c"), "GET /b/{id}/c");
        assert_eq!(template(&found, &Method::POST, "/b"), "POST /b");
        assert_eq!(template(&found, &Method::POST, "/given.Service/Hidden"), "none");
    }

    #[test]
    fn a_verb_is_never_taken_for_a_part_of_an_id() {
        let rules = [
            rpc("Get", r#"get: "/a/{id}""#),
            rpc("Watch", r#"get: "/a/{id}:watch""#),
            rpc("List", r#"get: "/a:list""#),
        ];
        let found = table(&rules.concat()).unwrap();
        assert_eq!(template(&found, &Method::GET, "/a/1"), "GET /a/{id}");
        assert_eq!(template(&found, &Method::GET, "/a/1:watch"), "GET /a/{id}:watch");
        assert_eq!(template(&found, &Method::GET, "/a:list"), "GET /a:list");
        assert_eq!(template(&found, &Method::GET, "/a/1:wash"), "none");
        let escaped = found.find(&Method::GET, "/a/1%3Awash").ok().unwrap();
        assert_eq!(escaped.variables, [("id", "1:wash".to_owned())]);
    }

    /// As ids of dead letters may have it, which are keys that somebody else chose.
    #[test]
    fn an_id_with_a_colon_or_slash_works_with_every_verb_where_it_is_encoded_and_is_explained_where_not() {
        let rules = [
            rpc("Get", r#"get: "/v1/order/dead-letters/{id}""#),
            rpc("Redrive", r#"post: "/v1/order/dead-letters/{id}:redrive" body: "*""#),
            rpc("Skip", r#"post: "/v1/order/dead-letters/{id}:skip" body: "*""#),
        ];
        let found = table(&rules.concat()).unwrap();
        for (method, verb) in [(Method::GET, ""), (Method::POST, ":redrive"), (Method::POST, ":skip")] {
            let encoded = format!("/v1/order/dead-letters/t.a%3Ab%2Fc{verb}");
            let Ok(route) = found.find(&method, &encoded) else { panic!("{encoded}") };
            assert_eq!(route.variables, [("id", "t.a:b/c".to_owned())]);
            for raw in ["t.a:b/c", "t.a/b", "a/b:c"] {
                let Err(problem) = found.find(&method, &format!("/v1/order/dead-letters/{raw}{verb}")) else {
                    panic!("{raw}{verb}")
                };
                let why = problem.detail();
                assert!(why.contains("%3A") && why.contains("%2F"), "{why}");
            }
        }
    }

    #[test]
    fn an_ambiguous_route_refuses_the_start() {
        let rules = [rpc("One", r#"get: "/a/{id}""#), rpc("Two", r#"get: "/a/{size}""#)].concat();
        let why = table(&rules).err().unwrap();
        assert!(why.starts_with("given.Service.Two: /a/{size} is ambiguous"), "{why}");
    }

    #[test]
    fn a_rule_that_cannot_be_served_refuses_the_start() {
        for rule in [
            r#"put: "/a" body: "*""#,
            r#"custom { kind: "HEAD" path: "/a" }"#,
            r#"get: "a""#,
            r#"get: "/a/*""#,
            r#"get: "/a/{id=b/*}""#,
            r#"get: "/a/{id}/{id}""#,
            r#"get: "/a/x{id}""#,
            r#"get: "/a//b""#,
            r#"get: "/a/{id}:watch:twice""#,
            r#"get: "/a/{nothing}""#,
            r#"get: "/a/{thing}""#,
            r#"get: "/a/{names}""#,
            r#"get: "/a" body: "*""#,
            r#"post: "/a" body: "thing""#,
            r#"get: "/a" response_body: "nothing""#,
            r#"get: "/a" response_body: "text""#,
            r#"get: "/a" response_body: "things""#,
        ] {
            let why = table(&rpc("Odd", rule)).err().unwrap_or_else(|| panic!("{rule} is served"));
            assert!(why.starts_with("given.Service.Odd: "), "{why}");
        }
        let rule = r#"option (google.api.http) = { get: "/a" response_body: "thing" };"#;
        for rest in ["success_status: 204", "success_status: 404", r#"location: "/a/{text}""#] {
            let odd = format!("rpc Odd(Ask) returns (Answer) {{ {rule} option (shop.http.v1.rest) = {{ {rest} }}; }}");
            assert!(table(&odd).is_err(), "{rest}");
        }
        let stream = format!("rpc Odd(Ask) returns (stream Answer) {{ {rule} }}");
        assert!(table(&stream).err().unwrap().contains("a stream of answers says how it becomes events"));
    }
}
