// SPDX-License-Identifier: Apache-2.0
// The AWS SDK for JavaScript 3 as one command per run: node javascript.cjs '{"url": …, "do": NAME, …}'.
// Found through NODE_PATH; keys come from the environment. Prints one JSON document.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { pipeline } = require("node:stream/promises");
const {
  S3Client, PutObjectCommand, GetObjectCommand, CopyObjectCommand, ListObjectsV2Command, DeleteObjectsCommand,
  CreateMultipartUploadCommand, UploadPartCommand, CompleteMultipartUploadCommand, HeadObjectCommand,
  paginateListObjectsV2,
} = require("@aws-sdk/client-s3");

const job = JSON.parse(process.argv[2]);
const client = new S3Client({ endpoint: job.url, forcePathStyle: true });
const place = { Bucket: job.bucket, Key: job.key };

async function* keys(prefix) {
  for await (const page of paginateListObjectsV2({ client }, { Bucket: job.bucket, Prefix: prefix }))
    for (const entry of page.Contents ?? []) yield entry.Key;
}

async function get(key, file) {
  const answer = await client.send(new GetObjectCommand({ Bucket: job.bucket, Key: key }));
  await pipeline(answer.Body, fs.createWriteStream(file));
}

const commands = {
  async put() {
    // A stream goes out as aws-chunked with a trailer, even without TLS; a buffer as one signed body.
    const size = fs.statSync(job.path).size;
    const Body = job.stream ? fs.createReadStream(job.path) : fs.readFileSync(job.path);
    const answer = await client.send(new PutObjectCommand({ ...place, Body, ContentLength: size, ...job.more }));
    return { ETag: answer.ETag, crc32: answer.ChecksumCRC32 };
  },
  async get() {
    await get(job.key, job.path);
  },
  async multipart() {
    const { UploadId } = await client.send(new CreateMultipartUploadCommand(place));
    const size = fs.statSync(job.path).size;
    const ranges = [];
    for (let start = 0; start < size; start += job.part) ranges.push([start, Math.min(start + job.part, size)]);
    const Parts = await Promise.all(ranges.map(async ([start, end], index) => {
      const part = { ...place, UploadId, PartNumber: index + 1, ContentLength: end - start };
      const Body = fs.createReadStream(job.path, { start, end: end - 1 });
      const answer = await client.send(new UploadPartCommand({ ...part, Body }));
      return { PartNumber: index + 1, ETag: answer.ETag, ChecksumCRC32: answer.ChecksumCRC32 };
    }));
    await client.send(new CompleteMultipartUploadCommand({ ...place, UploadId, MultipartUpload: { Parts } }));
  },
  async copy() {
    const CopySource = `${job.bucket}/${job.key.split("/").map(encodeURIComponent).join("/")}`;
    await client.send(new CopyObjectCommand({ Bucket: job.bucket, Key: job.target, CopySource }));
  },
  async names() {
    const answer = await client.send(
      new ListObjectsV2Command({ Bucket: job.bucket, Prefix: job.prefix, Delimiter: "/" }));
    return [...(answer.Contents ?? []).map((e) => e.Key), ...(answer.CommonPrefixes ?? []).map((e) => e.Prefix)];
  },
  async remove() {
    const Objects = [];
    for await (const Key of keys(job.prefix)) Objects.push({ Key });
    const answer = await client.send(new DeleteObjectsCommand({ Bucket: job.bucket, Delete: { Objects } }));
    if (answer.Errors?.length) throw new Error(JSON.stringify(answer.Errors));
  },
  async putTree() {
    for (const entry of fs.readdirSync(job.path, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const file = path.join(entry.parentPath ?? entry.path, entry.name);
      const Key = `${job.prefix}/${path.relative(job.path, file)}`;
      await client.send(new PutObjectCommand({ Bucket: job.bucket, Key, Body: fs.readFileSync(file) }));
    }
  },
  async getTree() {
    for await (const key of keys(`${job.prefix}/`)) {
      const file = path.join(job.path, key.slice(job.prefix.length + 1));
      fs.mkdirSync(path.dirname(file), { recursive: true });
      await get(key, file);
    }
  },
  async conditional() {
    const put = () => client.send(new PutObjectCommand({ ...place, Body: "once", IfNoneMatch: "*" }));
    const first = await put();
    const second = await put().catch((error) => error.name);
    const head = await client.send(new HeadObjectCommand({ ...place, ChecksumMode: "ENABLED" }));
    return { first: first.ETag, second, head: head.ETag };
  },
};

commands[job.do]().then(
  (answer) => process.stdout.write(JSON.stringify(answer ?? null)),
  (error) => {
    process.stderr.write(`${error.stack}\n${JSON.stringify(error.$metadata ?? {})}\n`);
    process.exitCode = 1;
  },
);
