// What the tests of the OpenAI SDK for Node share. They are the same for every version of it; which one it is, and
// where the gateway and its backend are, stands in the environment that `run.py` makes.

import assert from "node:assert/strict";
import { closeSync, openSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as pause } from "node:timers/promises";

const { PACKAGES, GATEWAY, METRICS, BACKEND, KEY } = process.env;
export const VERSION = Number(process.env.VERSION);
const sdk = createRequire(`${PACKAGES}/`)(`openai${VERSION}`);
export const OpenAI = sdk.OpenAI;

export const HELLO = [{ role: "user", content: "say three words" }];
export const CHAT = "/v1/chat/completions";

export function client(options = {}) {
  return new OpenAI({ baseURL: `${GATEWAY}/v1`, apiKey: KEY, maxRetries: 0, timeout: 20_000, ...options });
}

/** One chat completion. `options` are the SDK's: headers, signal, timeout, maxRetries. */
export function chat(openai, body = {}, options = {}) {
  return openai.chat.completions.create({ model: "tiny", messages: HELLO, ...body }, options);
}

/** Headers that tell the backend what to do: `steered({ fault: "status-503", "fault-times": 1 })`. */
export function steered(wishes) {
  return Object.fromEntries(Object.entries(wishes).map(([name, value]) => [`x-sim-${name}`, String(value)]));
}

export async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

export function textOf(chunks) {
  return chunks.flatMap((chunk) => chunk.choices).map((choice) => choice.delta.content ?? "").join("");
}

/** A header of an answer or of an error, whose `headers` are a plain object in version 4. */
export function header(headers, name) {
  return headers.get ? headers.get(name) : headers[name];
}

/** Checks that a promise is rejected with exactly the SDK's class `kind`, our code and all that belongs to it. */
export async function refused(kind, promise, code) {
  const error = await promise.then(() => assert.fail("not refused"), (error) => error);
  assert.equal(error.constructor, kind, error.stack);
  assert.equal(error.code, code);
  assert.equal(error.type, error.error.type);
  assert.equal(error.param, error.error.param);
  assert.ok(error.message.includes(error.error.message));
  assert.equal(error.requestID ?? error.request_id, error.error.request_id);
  return error;
}

/** The sum of a metric's series; `series` is a name, or a name with labels as on the page. */
export async function metric(series) {
  const page = await (await fetch(`${METRICS}/metrics`)).text();
  const samples = page.split("\n").filter((line) => line && !line.startsWith("#"));
  const wanted = samples.filter((line) => line.startsWith(`${series} `) || line.startsWith(`${series}{`));
  return wanted.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}

export const asked = () => metric("obleth_requests_total");
export const left = () => metric("obleth_client_closed_total");
export const served = () => metric(`obleth_requests_total{endpoint="${CHAT}",status="200",outcome="ok"}`);
const gone = () => metric(`obleth_requests_total{endpoint="${CHAT}",status="499",outcome="client_gone"}`);

/** Since the gateway was started, so many seconds have passed beside the real ones; see tests/gateway/clock.c. */
export function letPass(seconds) {
  const file = openSync(process.env.CLOCK, "r+");
  writeSync(file, new Uint8Array(new Int32Array([seconds]).buffer), 0, 4, 20);
  closeSync(file);
}

/** The backend's own counts. */
export async function backend() {
  return (await fetch(`${BACKEND}/sim/stats`)).json();
}

/** How many requests with this id the backend has seen. */
export async function attempts(request) {
  return (await backend()).by_request_id[request] ?? 0;
}

let ids = 0;

/** A request id that nobody has used. */
export function freshId() {
  ids += 1;
  return `node-${VERSION}-${process.pid}-${ids}`;
}

/** Waits until something is true; fails if it does not come true. */
export async function until(holds) {
  const deadline = Date.now() + 20_000;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, String(holds));
    await pause(10);
  }
}

/** Checks that the client in `leave` is counted as gone and that nothing of it stays, here or at the backend. */
export async function leaving(leave) {
  const before = [await left(), await gone(), await asked(), (await backend()).aborted];
  await leave();
  await until(async () => (await backend()).active === 0);
  await until(async () => (await metric("obleth_in_flight")) === 0);
  await until(async () => (await left()) === before[0] + 1);
  const after = [await left(), await gone(), await asked(), (await backend()).aborted];
  assert.deepEqual(after, before.map((count) => count + 1));
}
