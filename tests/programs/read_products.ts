// Reads keys of a product from all stores by the readers of docs/reading_products.md; prints the contents as JSON.
import { DynamoDB } from "@aws-sdk/client-dynamodb";
import { Bigtable } from "@google-cloud/bigtable";
import { createClient } from "redis";
import * as bigtable from "./bigtable.js";
import * as dynamodb from "./dynamodb.js";
import * as redis from "./redis.js";

const [name, ...keys] = JSON.parse(process.argv[2]) as [string, ...string[]];
const tables = new DynamoDB({ endpoint: process.env.DYNAMODB_ENDPOINT });
const table = new Bigtable({ projectId: "project" }).instance("instance").table(name);
const client = await createClient({ url: process.env.REDIS_URL }).connect();
const found: Record<string, unknown>[] = [];
for (const key of keys) {
  found.push({
    dynamodb: await dynamodb.read(tables, name, key),
    bigtable: await bigtable.read(table, key),
    redis: await redis.read(client, name, key),
  });
}
console.log(JSON.stringify(found));
process.exit(0);
