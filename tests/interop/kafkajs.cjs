// Prints what kafkajs' schema registry client writes, a JSON object a line, beside a registry that knows one schema.
const http = require("http");
const { SchemaRegistry } = require("@kafkajs/confluent-schema-registry");

const schema = `syntax = "proto3";
package streams.demo.v1;
message DeviceState { string device_id = 1; double cpu = 13; }`;

const server = http.createServer((_, answer) => {
  answer.setHeader("content-type", "application/vnd.schemaregistry.v1+json");
  answer.end(JSON.stringify({ schema, schemaType: "PROTOBUF", id: 7 }));
});

server.listen(0, "127.0.0.1", async () => {
  const registry = new SchemaRegistry({ host: `http://127.0.0.1:${server.address().port}` });
  const value = await registry.encode(7, { deviceId: "dev-1", cpu: 0.5 });
  const name = "@kafkajs/confluent-schema-registry 3.9.0, schema id 7";
  console.log(JSON.stringify({ name, value: value.toString("hex"), headers: [] }));
  process.exit(0);
});
