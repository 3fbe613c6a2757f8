// Anthropic's client for JavaScript: the gateway's address and the names of checks -> each check's outcome as one line of JSON.

import Anthropic from "@anthropic-ai/sdk";

import * as asking from "./asking.mjs";

const [address, ...names] = process.argv.slice(2);
const client = new Anthropic({ baseURL: address, apiKey: "unused" });
const MESSAGES = [{ role: "user", content: "Tell me about the sea." }];
// The same tokens each time, and all of them.
const ASKED = { model: "mai", max_tokens: 12, messages: MESSAGES, temperature: 0, seed: 1, ignore_eos: true };

function whole(message) {
  const text = message.content.map((part) => part.text).join("");
  return { text, finish: message.stop_reason, tokens: message.usage.output_tokens, role: message.role };
}

async function joined(events, onEvent = () => {}) {
  const reply = { text: "", finish: null, tokens: null, role: null, chunks: 0 };
  for await (const event of events) {
    onEvent();
    if (event.type === "message_start") reply.role = event.message.role;
    if (event.type === "content_block_delta") {
      reply.text += event.delta.text;
      reply.chunks += 1;
    }
    if (event.type === "message_delta") {
      reply.finish = event.delta.stop_reason;
      reply.tokens = event.usage.output_tokens;
    }
  }
  return reply;
}

// The error that a question ends in; whatever is not of the client's own types ends this script.
function refusal(error) {
  if (!(error instanceof Anthropic.APIError)) throw error;
  return { error: error.constructor.name, status: error.status, message: error.message };
}

const refused = (asked) => asking.refused(asked, refusal);

const checks = {
  message: async () => whole(await client.messages.create(ASKED)),
  message_streamed: async () => joined(await client.messages.create({ ...ASKED, stream: true })),
  async count() {
    return { tokens: (await client.messages.countTokens({ model: "mai", messages: MESSAGES })).input_tokens };
  },
  unknown_model: () => refused(client.messages.create({ ...ASKED, model: "nobody" })),
  held: () => asking.held(() => client.messages.create({ ...ASKED, stream: true }), joined, refusal),
};

await asking.answer(checks, names);
