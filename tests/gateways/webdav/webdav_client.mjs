// SPDX-License-Identifier: Apache-2.0
// The npm package `webdav` as one command per run: node webdav_client.mjs '{"url": …, "do": [[METHOD, ARGUMENT…], …]}'.
// Each call is a method of its client, or one of `extra`; the results are printed as one JSON array. A call that is
// rejected ends the run; ["fails", METHOD, ARGUMENT…] expects it and gives the status.
import fs from "node:fs";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { pathToFileURL } from "node:url";

// Modules of this kind are not looked for in NODE_PATH.
const entry = path.join(process.env.NODE_PATH, "webdav/dist/node/index.js");
const { AuthType, createClient } = await import(pathToFileURL(entry));

const job = JSON.parse(process.argv[2]);
const authType = job.digest ? AuthType.Digest : AuthType.Password;
const client = createClient(job.url, { username: job.user, password: job.password, authType });

const extra = {
  async upload(target, source) {
    const answer = new Promise((resolve, reject) => {
      const sending = client.createWriteStream(target, {}, resolve);
      sending.on("error", reject);
      fs.createReadStream(source).pipe(sending);
    });
    return (await answer).status;
  },
  async download(source, target, options) {
    await pipeline(client.createReadStream(source, options), fs.createWriteStream(target));
  },
  async fails(method, ...rest) {
    try {
      await call([method, ...rest]);
    } catch (error) {
      return error.status ?? String(error);
    }
    return 0;
  },
};

async function call([method, ...rest]) {
  return method in extra ? extra[method](...rest) : client[method](...rest);
}

const results = [];
for (const each of job.do) results.push((await call(each)) ?? null);
console.log(JSON.stringify(results));
