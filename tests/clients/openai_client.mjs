// OpenAI's client for JavaScript: the gateway's address and the names of checks -> each check's outcome as one line of JSON.

import OpenAI from "openai";

import * as asking from "./asking.mjs";

const [address, ...names] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "unused" });
const once = { maxRetries: 0 };
const CHAT = { model: "mai", messages: [{ role: "user", content: "Tell me about the sea." }] };
const TEXT = { model: "mai", prompt: "The sea" };
// The same tokens each time, and all of them.
const SAME = { max_tokens: 12, temperature: 0, seed: 1, ignore_eos: true };
const STREAMED = { stream: true, stream_options: { include_usage: true } };
const RESPONSE = { model: "mai", input: "Tell me about the sea.", max_output_tokens: 12, temperature: 0 };

const whole = (text, finish, usage) => ({ text, finish, tokens: usage?.completion_tokens });

async function joined(chunks, textOf, onEvent = () => {}) {
  let [text, finish, usage, count] = ["", null, null, 0];
  for await (const chunk of chunks) {
    onEvent();
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) {
      text += textOf(choice) ?? "";
      finish = choice.finish_reason ?? finish;
      count += 1;
    }
  }
  return { ...whole(text, finish, usage), chunks: count };
}

async function joinedResponse(events, onEvent = () => {}) {
  let [text, end, count] = ["", null, 0];
  for await (const event of events) {
    onEvent();
    if (event.type === "response.output_text.delta") {
      text += event.delta;
      count += 1;
    }
    if (event.type === "response.completed") end = event.response;
  }
  return { text, status: end?.status, tokens: end?.usage.output_tokens, chunks: count };
}

// The error that a question ends in; whatever is not of the client's own types ends this script.
function refusal(error) {
  if (!(error instanceof OpenAI.APIError)) throw error;
  return { error: error.constructor.name, status: error.status, message: error.message };
}

const refused = (asked) => asking.refused(asked, refusal);
const held = (ask, joined) => asking.held(ask, joined, refusal);

const checks = {
  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids };
  },
  async chat() {
    const { data, response } = await client.chat.completions.create({ ...CHAT, ...SAME }).withResponse();
    const choice = data.choices[0];
    return {
      ...whole(choice.message.content, choice.finish_reason, data.usage),
      role: choice.message.role,
      rung: response.headers.get("x-tierkeeper-rung"),
    };
  },
  async chat_streamed() {
    const chunks = await client.chat.completions.create({ ...CHAT, ...SAME, ...STREAMED });
    return joined(chunks, (choice) => choice.delta.content);
  },
  async completion() {
    const reply = await client.completions.create({ ...TEXT, ...SAME });
    return whole(reply.choices[0].text, reply.choices[0].finish_reason, reply.usage);
  },
  async completion_streamed() {
    const chunks = await client.completions.create({ ...TEXT, ...SAME, ...STREAMED });
    return joined(chunks, (choice) => choice.text);
  },
  async response() {
    const reply = await client.responses.create(RESPONSE);
    return { text: reply.output_text, status: reply.status, tokens: reply.usage.output_tokens };
  },
  response_streamed: async () => joinedResponse(await client.responses.create({ ...RESPONSE, stream: true })),
  embedding: () => refused(client.embeddings.create({ model: "mai", input: "The sea" }, once)),
  unknown_model: () => refused(client.chat.completions.create({ ...CHAT, model: "nobody" })),
  unknown_rung: () =>
    refused(client.chat.completions.create(CHAT, { ...once, headers: { "x-tierkeeper-require": "nobody" } })),
  bad_request: () => refused(client.chat.completions.create({ model: "mai", messages: "The sea" })),
  held_chat: () =>
    held(
      () => client.chat.completions.create({ ...CHAT, ...SAME, ...STREAMED }),
      (chunks, onEvent) => joined(chunks, (choice) => choice.delta.content, onEvent),
    ),
  held_completion: () =>
    held(
      () => client.completions.create({ ...TEXT, ...SAME, ...STREAMED }),
      (chunks, onEvent) => joined(chunks, (choice) => choice.text, onEvent),
    ),
  held_response: () => held(() => client.responses.create({ ...RESPONSE, stream: true }), joinedResponse),
};

await asking.answer(checks, names);
