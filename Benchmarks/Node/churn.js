// SPDX-License-Identifier: Apache-2.0
//
// The churn of a server in V8: node --expose-gc churn.js ENTRIES WAIT_MS
// Entries of objects, strings and buffers (malloc) in a map; 90 % deleted at random, looked at, and
// the rest deleted. Says "ready", then `done WRONG`, and waits for the end of its input.

"use strict";

const [entries, waitMs] = process.argv.slice(2).map(Number);
const live = new Map();
let wrong = 0;

// splitmix in 32 bits: the same keys in each run.
let state = 1;
function random(bound) {
  state = (state + 0x9e3779b9) | 0;
  let z = state;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return ((z ^ (z >>> 15)) >>> 0) % bound;
}

function fill() {
  for (let key = 0; key < entries; key++) {
    const buffer = Buffer.allocUnsafeSlow(16 + random(8000));
    buffer.fill(key & 255);
    live.set(key, { key, text: "x".repeat(random(200)) + key, list: [key, key + 1], buffer });
  }
}

function check(entry) {
  const isWhole = entry.text.endsWith(String(entry.key)) && entry.list[1] === entry.key + 1 &&
    entry.buffer[0] === (entry.key & 255) &&
    entry.buffer[entry.buffer.length - 1] === (entry.key & 255);
  if (!isWhole) wrong++;
}

function remove(percent) {
  const keys = [...live.keys()];
  for (let last = keys.length - 1; last > 0; last--) {
    const other = random(last + 1);
    [keys[last], keys[other]] = [keys[other], keys[last]];
  }
  for (const key of keys.slice(0, (keys.length * percent) / 100)) {
    check(live.get(key));
    live.delete(key);
  }
  global.gc();
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function play() {
  console.log("ready");
  fill();
  for (let round = 0; round < 8; round++) {
    remove(25);
    await pause(waitMs / 8);
  }
  live.forEach(check);
  for (let round = 0; round < 5; round++) {
    remove(75);
    await pause(waitMs / 8);
  }
  remove(100);
  await pause(waitMs);
  // V8 unmaps what it gives back; jemalloc looks at the time once in 1000 allocations.
  let ticks = 0;
  setInterval(() => {
    for (let count = 0; count < 200; count++) Buffer.allocUnsafeSlow(64);
    if (++ticks % 10 === 0) global.gc();
  }, 100);
  console.log(`done ${wrong}`);
  process.stdin.on("end", () => process.exit(0)).resume();
}

play();
