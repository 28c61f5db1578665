// What an endpoint takes at most: node put-objects.js URL REGION BUCKET PREFIX DIRECTORY PARALLEL
// puts the files of a directory, read before the clock starts, and prints milliseconds of wall and of CPU time.
import fs from 'node:fs';
import path from 'node:path';
import { PutObjectCommand, S3Client } from '@aws-sdk/client-s3';

const [url = '', region = '', bucket = '', prefix = '', directory = '', parallel = ''] = process.argv.slice(2);
const client = new S3Client({
  endpoint: url,
  region,
  forcePathStyle: true,
  requestChecksumCalculation: 'WHEN_REQUIRED',
  responseChecksumValidation: 'WHEN_REQUIRED',
  requestHandler: { httpAgent: { keepAlive: true, maxSockets: 64 } },
  expectContinueHeader: false,
});
const objects = fs.readdirSync(directory).map((name) => ({ name, bytes: fs.readFileSync(path.join(directory, name)) }));
const waiting = objects[Symbol.iterator]();

async function put() {
  for (const { name, bytes } of waiting) {
    await client.send(new PutObjectCommand({ Bucket: bucket, Key: `${prefix}/${name}`, Body: bytes }));
  }
}

const cpu = process.cpuUsage();
const started = performance.now();
await Promise.all(Array.from({ length: Number(parallel) }, put));
const ms = performance.now() - started;
const { user, system } = process.cpuUsage(cpu);
process.stdout.write(JSON.stringify({ ms, cpu: (user + system) / 1000 }));
