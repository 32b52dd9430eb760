// What the OpenAI SDK for Node makes of everything that goes wrong: its classes, fields and retries.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  OpenAI,
  all,
  asked,
  attempts,
  backend,
  chat,
  client,
  freshId,
  header,
  letPass,
  metric,
  refused,
  steered,
  textOf,
} from "./world.mjs";

const openai = client();
const patient = { maxRetries: 2 };
const { KEY_DISABLED, KEY_NARROW, KEY_RATED, KEY_SPENT } = process.env;

test("refusals of the key are asked once", async () => {
  const before = await asked();
  const withKey = (apiKey) => chat(client({ apiKey, ...patient }));
  const unknown = await refused(OpenAI.AuthenticationError, withKey("sk_unknown"), "invalid_api_key");
  assert.equal(header(unknown.headers, "x-should-retry"), "false");
  assert.equal(unknown.type, "authentication_error");
  const disabled = await refused(OpenAI.PermissionDeniedError, withKey(KEY_DISABLED), "key_disabled");
  assert.equal(disabled.type, "permission_error");
  await refused(OpenAI.PermissionDeniedError, withKey(KEY_NARROW), "model_not_allowed");
  assert.equal(await asked(), before + 3);
});

test("refusals of the request", async () => {
  const unknown = await refused(OpenAI.NotFoundError, chat(openai, { model: "nothing" }), "model_not_found");
  assert.equal(unknown.type, "not_found_error");
  await refused(OpenAI.NotFoundError, openai.models.retrieve("no/thing"), "model_not_found");
  await refused(OpenAI.NotFoundError, openai.files.list(), "unknown_endpoint");
  const nameless = await refused(OpenAI.BadRequestError, chat(openai, { model: "" }), "missing_model");
  assert.deepEqual([nameless.type, nameless.param], ["invalid_request_error", "model"]);
  const negative = await refused(OpenAI.BadRequestError, chat(openai, { max_tokens: -1 }), "invalid_parameter");
  assert.equal(negative.param, "max_tokens");
});

test("a body over the limit is asked once", async () => {
  const before = await asked();
  const messages = [{ role: "user", content: "x".repeat(11 << 20) }];
  const error = await refused(OpenAI.APIError, chat(openai, { messages }, patient), "request_too_large");
  assert.equal(error.status, 413);
  assert.equal(header(error.headers, "x-should-retry"), "false");
  assert.equal(await asked(), before + 1);
});

for (const [status, kind] of [
  [400, OpenAI.BadRequestError],
  [409, OpenAI.ConflictError],
  [413, OpenAI.APIError],
  [415, OpenAI.APIError],
  [422, OpenAI.UnprocessableEntityError],
]) {
  test(`a request that the backend blames with ${status} is asked once`, async () => {
    const request = freshId();
    const headers = { ...steered({ fault: `status-${status}` }), "x-request-id": request };
    const error = await refused(kind, chat(openai, {}, { headers, ...patient }), "upstream_rejected");
    assert.deepEqual([error.status, await attempts(request)], [status, 1]);
  });
}

for (const [fault, code, times] of [
  ["status-500", "upstream_error", 2],
  ["status-401", "upstream_auth", 1],
  ["status-404", "upstream_not_found", 1],
  ["die-after-head", "upstream_cut", 2],
]) {
  test(`a backend with ${fault} is asked ${times} times`, async () => {
    const request = freshId();
    const headers = { ...steered({ fault }), "x-request-id": request };
    const error = await refused(OpenAI.InternalServerError, chat(openai, {}, { headers, maxRetries: 1 }), code);
    assert.deepEqual([error.status, error.type, await attempts(request)], [502, "server_error", times]);
  });
}

for (const [fault, stream] of [
  ["status-503", false],
  ["status-429", true],
]) {
  test(`${fault} once is retried after the wait and served`, async () => {
    const request = freshId();
    const wishes = steered({ fault, "fault-times": 1, header: "retry-after: 1" });
    const begun = performance.now();
    const options = { headers: { ...wishes, "x-request-id": request }, ...patient };
    const answer = await chat(openai, { stream, max_tokens: 2 }, options);
    assert.ok(performance.now() - begun >= 900);
    assert.equal(stream ? textOf(await all(answer)) : answer.choices[0].message.content, "Hello from");
    assert.equal(await attempts(request), 2);
  });
}

for (const [fault, kind, code, type] of [
  ["status-429", OpenAI.RateLimitError, "upstream_rejected", "rate_limit_error"],
  ["status-503", OpenAI.InternalServerError, "no_healthy_upstream", "server_error"],
]) {
  test(`the wait that ${fault} asks for is one that every SDK keeps`, async () => {
    for (const [said, told] of [
      [7, "7"],
      [3600, "59"],
    ]) {
      const headers = steered({ fault, header: `retry-after: ${said}` });
      const error = await refused(kind, chat(openai, {}, { headers }), code);
      assert.equal(error.type, type);
      assert.equal(header(error.headers, "retry-after"), told);
      assert.equal(header(error.headers, "retry-after-ms"), `${told}000`);
      assert.equal(header(error.headers, "x-should-retry") ?? null, null);
    }
  });
}

test("a rate is waited for as told and then served", async () => {
  const limited = client({ apiKey: KEY_RATED });
  await chat(limited);
  const refusals = 'obleth_rejected_total{code="rate_limit_exceeded"}';
  const before = await metric(refusals);
  letPass(57);
  const error = await refused(OpenAI.RateLimitError, chat(limited), "rate_limit_exceeded");
  assert.equal(error.type, "rate_limit_error");
  const told = Number(header(error.headers, "retry-after-ms"));
  assert.ok(told > 0 && told <= 3000, `${told} ms`);
  const begun = performance.now();
  const answer = await chat(limited, {}, patient);
  assert.ok(answer.choices[0].message.content);
  // It was refused a little later than the one that told, so that its own wait was shorter by as much.
  assert.ok(performance.now() - begun >= told - 500);
  assert.equal(await metric(refusals), before + 2);
});

test("a budget that is used up is asked once", async () => {
  const spent = client({ apiKey: KEY_SPENT, ...patient });
  for (const stream of [false, true]) {
    const before = [await asked(), (await backend()).requests];
    const error = await refused(OpenAI.RateLimitError, chat(spent, { stream }), "budget_exceeded");
    assert.equal(error.type, "insufficient_quota");
    assert.equal(header(error.headers, "x-should-retry"), "false");
    assert.equal(header(error.headers, "retry-after") ?? null, null);
    assert.deepEqual([await asked(), (await backend()).requests], [before[0] + 1, before[1]]);
  }
});

for (const fault of ["die-after-role", "die-after-tokens", "die-before-done"]) {
  test(`a stream broken by ${fault} is rejected with our code`, async () => {
    const request = freshId();
    const headers = { ...steered({ fault }), "x-request-id": request };
    const chunks = [];
    const reading = async () => {
      for await (const chunk of await chat(openai, { stream: true }, { headers, ...patient })) chunks.push(chunk);
    };
    const error = await reading().then(() => assert.fail("not rejected"), (error) => error);
    assert.equal(error.constructor, OpenAI.APIError, error.stack);
    assert.deepEqual([error.code, error.type], ["upstream_cut", "server_error"]);
    assert.equal(error.error.request_id, request);
    assert.ok("Hello from the simulated backend".startsWith(textOf(chunks.slice(0, 6))));
    assert.equal(await attempts(request), 1);
  });
}

test("a stream that is refused is rejected before its first chunk", async () => {
  await refused(OpenAI.NotFoundError, chat(openai, { model: "nothing", stream: true }), "model_not_found");
  const headers = steered({ fault: "die-after-head" });
  await refused(OpenAI.InternalServerError, chat(openai, { stream: true }, { headers }), "upstream_cut");
});
