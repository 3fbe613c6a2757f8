// Asking: a client's way to ask and to read an error -> the reply, or the refusal, as a check tells it.

import { createInterface } from "node:readline";

export async function refused(asked, refusal) {
  try {
    return { answered: await asked };
  } catch (error) {
    return refusal(error);
  }
}

// Begins when it is told to, and says how long it waited for the first part, or what it was refused with.
export async function held(ask, joined, refusal) {
  console.log(JSON.stringify({ check: "ready" }));
  const input = createInterface({ input: process.stdin });
  await new Promise((resolve) => input.once("line", resolve));
  input.close();
  const asked = performance.now();
  let waited;
  try {
    const reply = await joined(await ask(), () => {
      waited ??= (performance.now() - asked) / 1000;
    });
    return { ...reply, waited };
  } catch (error) {
    return refusal(error);
  }
}

export async function answer(checks, names) {
  for (const name of names) console.log(JSON.stringify({ ...(await checks[name]()), check: name }));
}
