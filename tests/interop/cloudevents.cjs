// Prints what the CloudEvents SDK for JavaScript writes for Kafka, a JSON object a line.
const { CloudEvent, Kafka } = require("cloudevents");

const message = new Uint8Array(Buffer.from("0a056465762d3169000000000000e03f", "hex"));
const attributes = { id: "e1", source: "/ingest", type: "device.changed", subject: "dev-1", sequence: "7" };
const time = "2026-01-02T03:04:05.678901Z";

function hex(held) {
  if (held === null || held === undefined) return null;
  return Buffer.from(held).toString("hex");
}

for (const [name, data] of [["data", { data: message, datacontenttype: "application/protobuf" }], ["none", {}]]) {
  for (const mode of ["binary", "structured"]) {
    const { value, headers } = Kafka[mode](new CloudEvent({ ...attributes, time, ...data }));
    const written = Object.entries(headers).map(([header, held]) => [header, hex(held)]);
    console.log(JSON.stringify({ name: `cloudevents (npm) 10.0.0, ${mode} ${name}`, value: hex(value), headers: written }));
  }
}
