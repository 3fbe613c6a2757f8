// Ollama's client for JavaScript: the gateway's address and the names of checks -> each check's outcome as one line of JSON.

import { Ollama } from "ollama";

import * as asking from "./asking.mjs";

const [address, ...names] = process.argv.slice(2);
const client = new Ollama({ host: address });
// What clients set and the gateway owns: a context of their own, and a model that stays for ever.
const SAME = { model: "mai", keep_alive: -1, options: { num_predict: 12, num_ctx: 512 } };
const CHAT = { ...SAME, messages: [{ role: "user", content: "Tell me about the sea." }] };
const TEXT = { ...SAME, prompt: "Tell me about the sea." };

const whole = (text, end) => ({ text, finish: end.done_reason, tokens: end.eval_count });

async function joined(parts, textOf) {
  let [text, end, count] = ["", null, 0];
  for await (const part of parts) {
    text += textOf(part);
    end = part;
    count += 1;
  }
  return { ...whole(text, end), chunks: count };
}

// The error that a question ends in; whatever is not of the client's own type, which it does not export, ends this script.
function refusal(error) {
  if (error.name !== "ResponseError") throw error;
  return { error: error.name, status: error.status_code, message: error.message };
}

const refused = (asked) => asking.refused(asked, refusal);

const checks = {
  models: async () => ({ ids: (await client.list()).models.map((model) => model.model) }),
  async show() {
    const shown = await client.show({ model: "mai" });
    return { capabilities: shown.capabilities, context: shown.model_info["llama.context_length"] };
  },
  ps: async () => ({ ids: (await client.ps()).models.map((model) => model.model) }),
  version: () => client.version(),
  async chat() {
    const reply = await client.chat(CHAT);
    return { ...whole(reply.message.content, reply), role: reply.message.role };
  },
  chat_streamed: async () => joined(await client.chat({ ...CHAT, stream: true }), (part) => part.message.content),
  async generate() {
    const reply = await client.generate(TEXT);
    return whole(reply.response, reply);
  },
  generate_streamed: async () => joined(await client.generate({ ...TEXT, stream: true }), (part) => part.response),
  embedding: () => refused(client.embed({ model: "mai", input: "The sea" })),
  unknown_model: () => refused(client.chat({ ...CHAT, model: "nobody" })),
  unknown_model_streamed: () => refused(client.chat({ ...CHAT, model: "nobody", stream: true })),
  closed_route: () => refused(client.pull({ model: "mai" })),
  held() {
    const read = (parts, onPart) =>
      joined(parts, (part) => {
        onPart();
        return part.message.content;
      });
    return asking.held(() => client.chat({ ...CHAT, stream: true }), read, refusal);
  },
};

await asking.answer(checks, names);
