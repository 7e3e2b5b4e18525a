//! The API page: Swagger UI over `/openapi.json`, all of it from this program. Nothing is loaded from anywhere else, and the
//! page may not: its Content-Security-Policy says so.
use bytes::Bytes;

/// A file of the page.
#[derive(Clone, Copy)]
pub(crate) struct Asset {
    /// What the route is called in metrics and log lines.
    pub(crate) label: &'static str,
    /// Its media type.
    pub(crate) media_type: &'static str,
    bytes: &'static [u8],
}

/// What the page may load: Swagger UI writes styles into elements, and has its icons in its style sheet.
pub(crate) const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
                                 img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Jangteo</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"#;
const START: &str = r##"SwaggerUIBundle({ url: "/openapi.json", dom_id: "#page", validatorUrl: null, deepLinking: true });
"##;

impl Asset {
    /// The file at a path.
    pub(crate) fn at(path: &str) -> Option<Asset> {
        let asset = |label, media_type, bytes| Some(Asset { label, media_type, bytes });
        match path {
            "/docs" => asset("GET /docs", "text/html; charset=utf-8", PAGE.as_bytes()),
            "/docs/start.js" => asset("GET /docs/start.js", "text/javascript; charset=utf-8", START.as_bytes()),
            "/docs/swagger-ui.css" => asset(
                "GET /docs/swagger-ui.css",
                "text/css; charset=utf-8",
                include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css")),
            ),
            "/docs/swagger-ui-bundle.js" => asset(
                "GET /docs/swagger-ui-bundle.js",
                "text/javascript; charset=utf-8",
                include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js")),
            ),
            _ => None,
        }
    }

    /// What is in it.
    pub(crate) fn bytes(self) -> Bytes {
        Bytes::from_static(self.bytes)
    }
}
