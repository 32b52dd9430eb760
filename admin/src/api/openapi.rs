//! Routes that describe themselves: the router and the OpenAPI document come from one list.
//!
//! A route can be added only together with its [`Operation`], so none is served that the document does not
//! name, and none is named that is not served. The document holds no secret and needs no token.

use axum::{
    Router,
    handler::Handler,
    routing::{MethodFilter, on},
};
use serde_json::{Map, Value, json};

use super::{
    App,
    shapes::{Kind, Member, REFUSAL, Shape},
};

/// What stands in front of every path of the list.
pub(super) const PREFIX: &str = "/api/v1";
/// The parameter or member that names a tenant, which may not be there.
const OWNER: &str = "tenant_id";

/// One method of one path.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// Without [`PREFIX`].
    pub(super) path: &'static str,
    pub(super) about: &'static str,
    pub(super) body: Option<Body>,
    pub(super) answer: Answer,
    /// Query parameters.
    pub(super) query: &'static [Member],
    /// Whether they must be there.
    needs_query: bool,
    status: u16,
    is_open: bool,
}

/// What a body may say.
#[derive(Debug)]
pub(super) struct Body {
    shape: &'static Shape,
    /// Only these members of the shape; none named are all.
    only: &'static [&'static str],
    required: &'static [&'static str],
    /// There may be none at all.
    is_optional: bool,
}

/// What comes back.
#[derive(Debug)]
pub(super) enum Answer {
    One(&'static Shape),
    /// A list in pages.
    Many(&'static Shape),
    /// A list that is whole, or in pages of its own kind.
    All(&'static Shape),
    /// A table: one line of names, then one per row.
    Csv,
}

impl Body {
    /// Every member of a shape; `required` must be there.
    pub(super) const fn of(shape: &'static Shape, required: &'static [&'static str]) -> Self {
        Self { shape, only: &[], required, is_optional: false }
    }

    /// One member, which must be there.
    pub(super) const fn just(shape: &'static Shape, only: &'static [&'static str]) -> Self {
        Self { shape, only, required: only, is_optional: false }
    }

    /// Some of these members.
    pub(super) const fn some(shape: &'static Shape, only: &'static [&'static str]) -> Self {
        Self { shape, only, required: &[], is_optional: false }
    }

    /// Some members of a shape, or no body.
    pub(super) const fn optional(shape: &'static Shape) -> Self {
        Self { shape, only: &[], required: &[], is_optional: true }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &'static Member> {
        self.shape.members().filter(|member| self.only.is_empty() || self.only.contains(&member.name))
    }

    pub(super) fn requires(&self, name: &str) -> bool {
        self.required.contains(&name)
    }
}

impl Operation {
    const fn new(method: &'static str, path: &'static str, about: &'static str, answer: Answer) -> Self {
        Self {
            method,
            path,
            about,
            body: None,
            answer,
            query: &[],
            needs_query: false,
            status: 200,
            is_open: false,
        }
    }

    pub(super) const fn get(path: &'static str, about: &'static str, shape: &'static Shape) -> Self {
        Self::new("GET", path, about, Answer::One(shape))
    }

    /// A list in pages; `query` are its parameters besides `limit` and `after`.
    pub(super) const fn list(
        path: &'static str,
        about: &'static str,
        shape: &'static Shape,
        query: &'static [Member],
    ) -> Self {
        Self { query, ..Self::new("GET", path, about, Answer::Many(shape)) }
    }

    /// A list that comes whole.
    pub(super) const fn all(path: &'static str, about: &'static str, shape: &'static Shape) -> Self {
        Self::new("GET", path, about, Answer::All(shape))
    }

    /// A table as a file.
    pub(super) const fn csv(path: &'static str, about: &'static str) -> Self {
        Self::new("GET", path, about, Answer::Csv)
    }

    /// With these parameters.
    pub(super) const fn asked(self, query: &'static [Member]) -> Self {
        Self { query, ..self }
    }

    /// With these parameters, which must be there.
    pub(super) const fn told(self, query: &'static [Member]) -> Self {
        Self { query, needs_query: true, ..self }
    }

    pub(super) const fn post(
        path: &'static str,
        about: &'static str,
        body: Body,
        shape: &'static Shape,
    ) -> Self {
        Self { body: Some(body), status: 201, ..Self::new("POST", path, about, Answer::One(shape)) }
    }

    pub(super) const fn put(
        path: &'static str,
        about: &'static str,
        body: Body,
        shape: &'static Shape,
    ) -> Self {
        Self { body: Some(body), ..Self::new("PUT", path, about, Answer::One(shape)) }
    }

    pub(super) const fn patch(
        path: &'static str,
        about: &'static str,
        body: Body,
        shape: &'static Shape,
    ) -> Self {
        Self { body: Some(body), ..Self::new("PATCH", path, about, Answer::One(shape)) }
    }

    pub(super) const fn delete(path: &'static str, about: &'static str, shape: &'static Shape) -> Self {
        Self::new("DELETE", path, about, Answer::One(shape))
    }

    /// Needs no token.
    pub(super) const fn open(self) -> Self {
        Self { is_open: true, ..self }
    }

    fn filter(&self) -> MethodFilter {
        match self.method {
            "POST" => MethodFilter::POST,
            "PUT" => MethodFilter::PUT,
            "PATCH" => MethodFilter::PATCH,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        }
    }

    /// Statuses of refusals, in our envelope.
    fn refusals(&self) -> Vec<u16> {
        let has_query = !self.query.is_empty() || matches!(self.answer, Answer::Many(_));
        let (has_body, changes) = (self.body.is_some(), self.method != "GET");
        // By its path, its query, or its body; a filter names nothing that has to be there.
        let is_paged = matches!(self.answer, Answer::Many(_));
        let names_another = self.path.contains('{')
            || (self.query.iter().any(|member| member.name == OWNER) && is_paged)
            || self.body.as_ref().is_some_and(|body| body.requires(OWNER));
        let possible = [
            (400, has_body || has_query),
            (401, !self.is_open),
            (404, names_another),
            (408, has_body),
            (409, changes),
            (413, has_body),
            (503, !self.is_open),
        ];
        possible.into_iter().filter(|(_, may)| *may).map(|(status, _)| status).collect()
    }

    fn json(&self) -> Value {
        let content = |schema: Value| json!({"application/json": {"schema": schema}});
        let mut responses = Map::new();
        let shown = match &self.answer {
            Answer::One(shape) => content(reference(shape)),
            Answer::Many(shape) | Answer::All(shape) => {
                content(json!({"type": "array", "items": reference(shape)}))
            }
            Answer::Csv => json!({"text/csv": {"schema": {"type": "string"}}}),
        };
        responses.insert(self.status.to_string(), json!({"description": self.about, "content": shown}));
        if self.is_open {
            responses
                .insert("503".to_owned(), json!({"description": "Something is broken.", "content": shown}));
        }
        for status in self.refusals() {
            let refusal = json!({"description": "Refused.", "content": content(reference(&REFUSAL))});
            responses.insert(status.to_string(), refusal);
        }
        let tag = self.path.split('/').nth(1).unwrap_or_default();
        let id =
            format!("{}{}", self.method.to_lowercase(), self.path.replace('/', "_").replace(['{', '}'], ""));
        let mut operation = json!({
            "operationId": id, "summary": self.about, "tags": [tag],
            "parameters": self.parameters(), "responses": responses,
            "security": if self.is_open { json!([]) } else { json!([{"admin_token": []}]) },
        });
        if let Some(body) = &self.body {
            let schema = object(body.members().map(|member| (member, body.requires(member.name))), partial);
            operation["requestBody"] = json!({"required": !body.is_optional, "content": content(schema)});
        }
        operation
    }

    fn parameters(&self) -> Vec<Value> {
        let parameter = |name: &str, place: &str, schema: Value| {
            let is_required = place == "path" || self.needs_query;
            json!({"name": name, "in": place, "required": is_required, "schema": schema})
        };
        let id = || json!({"type": "string", "format": "uuid"});
        let mut parameters = Vec::new();
        if self.path.contains("{id}") {
            parameters.push(parameter("id", "path", id()));
        }
        if matches!(self.answer, Answer::Many(_)) {
            let limit = json!({"type": "integer", "minimum": 1, "maximum": 1000, "default": 100});
            parameters.push(parameter("limit", "query", limit));
            parameters.push(parameter("after", "query", id()));
        }
        parameters
            .extend(self.query.iter().map(|member| parameter(member.name, "query", property(member, whole))));
        parameters
    }
}

/// A router under construction, and what it serves.
#[derive(Debug, Default)]
pub(super) struct Api {
    router: Router<App>,
    operations: Vec<Operation>,
}

impl Api {
    /// Adds an operation with what carries it out.
    pub(super) fn on<H, T>(mut self, operation: Operation, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        self.router = self.router.route(operation.path, on(operation.filter(), handler));
        self.operations.push(operation);
        self
    }

    /// The router without [`PREFIX`], and what it serves.
    pub(super) fn finish(self) -> (Router<App>, Vec<Operation>) {
        (self.router, self.operations)
    }
}

/// The OpenAPI 3.1 document of these operations.
pub(super) fn document(operations: &[Operation], version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for operation in operations {
        let path = paths.entry(format!("{PREFIX}{}", operation.path)).or_insert_with(|| json!({}));
        path[operation.method.to_lowercase()] = operation.json();
        if let Answer::One(shape) | Answer::Many(shape) | Answer::All(shape) = operation.answer {
            schemas.insert(shape.name.to_owned(), whole(shape));
        }
    }
    schemas.insert(REFUSAL.name.to_owned(), whole(&REFUSAL));
    json!({
        "openapi": "3.1.0",
        "info": {"title": "obleth admin API", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"admin_token": {"type": "http", "scheme": "bearer"}},
        },
    })
}

fn reference(shape: &Shape) -> Value {
    json!({"$ref": format!("#/components/schemas/{}", shape.name)})
}

/// An object that has each of its members.
fn whole(shape: &Shape) -> Value {
    object(shape.members().map(|member| (member, true)), whole)
}

/// An object that may have any of its members.
fn partial(shape: &Shape) -> Value {
    object(shape.members().map(|member| (member, false)), partial)
}

/// An object of these members, each with whether it must be there; `nested` describes objects within it.
fn object(members: impl Iterator<Item = (&'static Member, bool)>, nested: fn(&Shape) -> Value) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (member, is_required) in members {
        properties.insert(member.name.to_owned(), property(member, nested));
        if is_required {
            required.push(member.name);
        }
    }
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn property(member: &Member, nested: fn(&Shape) -> Value) -> Value {
    let mut schema = match &member.kind {
        Kind::Id => json!({"type": "string", "format": "uuid"}),
        Kind::Time => json!({"type": "string", "format": "date-time"}),
        Kind::Text => json!({"type": "string"}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Number(range) => json!({"type": "integer", "minimum": range.start(), "maximum": range.end()}),
        Kind::Decimal(range) => json!({"type": "number", "minimum": range.start(), "maximum": range.end()}),
        Kind::Amount => json!({"type": "number"}),
        Kind::OneOf(words) => json!({"type": "string", "enum": words}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Object(shape) => nested(shape),
        Kind::Objects(shape) => json!({"type": "array", "items": nested(shape)}),
    };
    if member.nullable {
        schema["type"] = json!([schema["type"], "null"]);
        if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
            words.push(Value::Null);
        }
    }
    if !member.about.is_empty() {
        schema["description"] = json!(member.about);
    }
    schema
}
