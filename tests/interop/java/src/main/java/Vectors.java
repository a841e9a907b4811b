import com.google.protobuf.DescriptorProtos.FileDescriptorSet;
import com.google.protobuf.Descriptors.FileDescriptor;
import com.google.protobuf.DynamicMessage;
import io.cloudevents.CloudEvent;
import io.cloudevents.core.builder.CloudEventBuilder;
import io.cloudevents.core.format.EventFormat;
import io.cloudevents.core.message.Encoding;
import io.cloudevents.jackson.JsonFormat;
import io.cloudevents.kafka.CloudEventSerializer;
import io.cloudevents.protobuf.ProtoCloudEventData;
import io.cloudevents.protobuf.ProtobufFormat;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.List;
import org.apache.kafka.common.header.internals.RecordHeaders;

/** Prints what the CloudEvents SDK for Java writes for Kafka, a JSON object a line. Argument: the set of device.proto. */
public class Vectors {
  public static void main(String[] args) throws Exception {
    var set = FileDescriptorSet.parseFrom(Files.readAllBytes(Path.of(args[0])));
    var type = FileDescriptor.buildFrom(set.getFile(0), new FileDescriptor[0]).findMessageTypeByName("DeviceState");
    var message =
        DynamicMessage.newBuilder(type)
            .setField(type.findFieldByName("device_id"), "dev-1")
            .setField(type.findFieldByName("cpu"), 0.5)
            .build();
    for (String kind : List.of("proto", "protobuf", "x-protobuf", "none", "empty")) {
      var builder =
          CloudEventBuilder.v1()
              .withId("e1")
              .withSource(URI.create("/ingest"))
              .withType("device.changed")
              .withSubject("dev-1")
              .withTime(OffsetDateTime.parse("2026-01-02T03:04:05.678901Z"))
              .withExtension("sequence", "7");
      switch (kind) {
        case "proto" -> builder.withData("application/protobuf", ProtoCloudEventData.wrap(message));
        case "protobuf" -> builder.withData("application/protobuf", message.toByteArray());
        case "x-protobuf" -> builder.withData("application/x-protobuf", message.toByteArray());
        case "empty" -> builder.withData("application/protobuf", new byte[0]);
        default -> {}
      }
      show("binary " + kind, builder.build(), Encoding.BINARY, null);
      show("structured protobuf " + kind, builder.build(), Encoding.STRUCTURED, new ProtobufFormat());
      show("structured json " + kind, builder.build(), Encoding.STRUCTURED, new JsonFormat());
    }
  }

  private static void show(String name, CloudEvent event, Encoding encoding, EventFormat format) {
    var settings = new HashMap<String, Object>();
    settings.put(CloudEventSerializer.ENCODING_CONFIG, encoding);
    if (format != null) {
      settings.put(CloudEventSerializer.EVENT_FORMAT_CONFIG, format);
    }
    var serializer = new CloudEventSerializer();
    serializer.configure(settings, false);
    var headers = new RecordHeaders();
    byte[] value = serializer.serialize("devices", headers, event);
    var written = new ArrayList<String>();
    headers.forEach(header -> written.add("[\"" + header.key() + "\", " + hex(header.value()) + "]"));
    System.out.println(
        "{\"name\": \"cloudevents-kafka (Maven) 4.0.1, " + name + "\", \"value\": " + hex(value)
            + ", \"headers\": [" + String.join(", ", written) + "]}");
  }

  private static String hex(byte[] bytes) {
    return bytes == null ? "null" : "\"" + HexFormat.of().formatHex(bytes) + "\"";
  }
}
