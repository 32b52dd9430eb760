//! `/groups`: tenants that share a weight.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use obleth_policy::id::GroupId;

use super::{
    App, WEIGHTS, act,
    body::Fields,
    error::ApiError,
    id_of,
    list::ListQuery,
    openapi::{Api, Body, Operation},
    shapes::{GROUP, GROUP_EDIT},
    tenants::set,
};
use crate::store::{
    fault::Kind,
    rows::{DEFAULT_WEIGHT, GroupRow},
};

/// The routes of this file.
pub(super) fn routes(api: Api) -> Api {
    const ONE: &str = "/groups/{id}";
    api.on(Operation::list("/groups", "All groups, newest first", &GROUP, &[]), list)
        .on(Operation::post("/groups", "Make a group", Body::of(&GROUP_EDIT, &["name"]), &GROUP), create)
        .on(Operation::get(ONE, "One group", &GROUP), show)
        .on(Operation::patch(ONE, "Change what is named", Body::of(&GROUP_EDIT, &[]), &GROUP), edit)
        .on(Operation::delete(ONE, "Delete it; it must be empty", &GROUP), delete)
}

type Answer = Result<Json<GroupRow>, ApiError>;

fn id(text: &str) -> Result<GroupId, ApiError> {
    id_of(text, Kind::Group).map(GroupId)
}

pub(super) async fn list(State(app): State<App>, query: ListQuery) -> Result<Response, ApiError> {
    let page = query.page;
    let rows = app.ask(move |db| db.list_groups(page)).await?;
    Ok(query.answer(rows, |row| row.id.0))
}

pub(super) async fn show(State(app): State<App>, Path(of): Path<String>) -> Answer {
    let id = id(&of)?;
    app.ask(move |db| db.group(id)).await.map(Json)
}

pub(super) async fn create(
    State(app): State<App>,
    mut body: Fields,
) -> Result<(StatusCode, Json<GroupRow>), ApiError> {
    let name = body.name("name")?;
    let name = body.required("name", name)?;
    let weight = body.number("weight", WEIGHTS)?.unwrap_or(DEFAULT_WEIGHT);
    body.finish()?;
    let row = app.change(move |db| db.create_group(&act("group.create"), name, weight)).await?;
    Ok((StatusCode::CREATED, Json(row)))
}

pub(super) async fn edit(State(app): State<App>, Path(of): Path<String>, mut body: Fields) -> Answer {
    let id = id(&of)?;
    let (name, weight) = (body.name("name")?, body.number("weight", WEIGHTS)?);
    body.finish()?;
    let edit = move |row: &mut GroupRow| {
        set(&mut row.name, name);
        set(&mut row.weight, weight);
    };
    app.change(move |db| db.update_group(&act("group.update"), id, edit)).await.map(Json)
}

pub(super) async fn delete(State(app): State<App>, Path(of): Path<String>) -> Answer {
    let id = id(&of)?;
    app.change(move |db| db.delete_group(&act("group.delete"), id)).await.map(Json)
}
