package compare;

import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.FieldMask;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.MessageLite;
import com.google.protobuf.Parser;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.errors.SerializationException;
import org.apache.kafka.common.serialization.Deserializer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;
import streams.demo.v1.Device.DeviceState;
import streams.v1.Cloudevents.CloudEvent;
import streams.v1.PatchOuterClass.Patch;

/**
 * Kafka Streams: the Processor API over a RocksDB store with cache and changelog, one stream thread, defaults otherwise.
 *
 * <p>Arguments: bootstrap, source, output, application id, events, state folder, processing guarantee.
 */
public final class KafkaStreamsPeer {
    private static final String STORE = "devices";
    private static final Duration CLOSE_TIMEOUT = Duration.ofSeconds(60);

    private KafkaStreamsPeer() {}

    /** What is kept per key: the last sequence and the device it led to. */
    private record Held(long sequence, DeviceState device) {
        private static final Held NOTHING = new Held(0, DeviceState.getDefaultInstance());

        private static Serde<Held> serde() {
            return Serdes.serdeFrom(
                    (topic, held) -> held == null ? null : held.bytes(),
                    (topic, bytes) -> bytes == null ? null : Held.of(ByteBuffer.wrap(bytes)));
        }

        private byte[] bytes() {
            byte[] message = device.toByteArray();
            return ByteBuffer.allocate(Long.BYTES + message.length).putLong(sequence).put(message).array();
        }

        private static Held of(ByteBuffer bytes) {
            try {
                return new Held(bytes.getLong(), DeviceState.parseFrom(bytes));
            } catch (InvalidProtocolBufferException error) {
                throw new SerializationException(error);
            }
        }
    }

    /** Compares each event with what is held. */
    private static final class Follow implements Processor<String, CloudEvent, String, Patch> {
        private final Progress progress;
        private ProcessorContext<String, Patch> context;
        private KeyValueStore<String, Held> devices;

        Follow(Progress progress) {
            this.progress = progress;
        }

        @Override
        public void init(ProcessorContext<String, Patch> context) {
            this.context = context;
            this.devices = context.getStateStore(STORE);
        }

        @Override
        public void process(Record<String, CloudEvent> record) {
            progress.begin();
            CloudEvent event = record.value();
            String key = event.getAttributesOrThrow("subject").getCeString();
            long sequence = Long.parseUnsignedLong(event.getAttributesOrThrow("sequence").getCeString());
            Held stored = devices.get(key);
            Held held = stored == null ? Held.NOTHING : stored;
            if (sequence > held.sequence()) {
                DeviceState device = deviceOf(event);
                devices.put(key, new Held(sequence, device));
                context.forward(record.withKey(key).withValue(patch(key, sequence, held, device)));
            }
            progress.end();
        }

        private static DeviceState deviceOf(CloudEvent event) {
            try {
                return DeviceState.parseFrom(event.getProtoData().getValue());
            } catch (InvalidProtocolBufferException error) {
                throw new SerializationException(error);
            }
        }

        private static Patch patch(String key, long sequence, Held held, DeviceState device) {
            DeviceState.Builder part = DeviceState.newBuilder();
            FieldMask.Builder mask = FieldMask.newBuilder();
            for (FieldDescriptor field : DeviceState.getDescriptor().getFields()) {
                Object value = device.getField(field);
                // A map's entries come as a list in the order of the wire: maps are compared as maps.
                boolean same = field.isMapField()
                        ? device.getLabelsMap().equals(held.device().getLabelsMap())
                        : value.equals(held.device().getField(field));
                if (!same) {
                    mask.addPaths(field.getName());
                    part.setField(field, value);
                }
            }
            return Patch.newBuilder()
                    .setKey(com.google.protobuf.ByteString.copyFromUtf8(key))
                    .setRevision(sequence)
                    .setBaseRevision(held.sequence())
                    .setKind(Patch.Kind.DELTA)
                    .setMask(mask)
                    .setData(part.build().toByteString())
                    .build();
        }
    }

    /** Says when the first event came, and lets the main thread know when the last one is through. */
    private static final class Progress {
        private final long events;
        private long seen;
        private final CountDownLatch through = new CountDownLatch(1);

        Progress(long events) {
            this.events = events;
        }

        void begin() {
            if (seen == 0) {
                System.out.println("first");
            }
            seen++;
        }

        void end() {
            if (seen == events) {
                through.countDown();
            }
        }
    }

    private static <T extends MessageLite> Deserializer<T> parsed(Parser<T> parser) {
        return (topic, bytes) -> {
            try {
                return bytes == null ? null : parser.parseFrom(bytes);
            } catch (InvalidProtocolBufferException error) {
                throw new SerializationException(error);
            }
        };
    }

    public static void main(String[] arguments) throws InterruptedException {
        String source = arguments[1];
        String output = arguments[2];
        Progress progress = new Progress(Long.parseLong(arguments[4]));

        Properties settings = new Properties();
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]);
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, arguments[3]);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, arguments[5]);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, arguments[6]);
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        settings.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "zstd");

        StoreBuilder<KeyValueStore<String, Held>> store = Stores.keyValueStoreBuilder(
                        Stores.persistentKeyValueStore(STORE), Serdes.String(), Held.serde())
                .withCachingEnabled();
        Topology topology = new Topology();
        topology.addSource("source", Serdes.String().deserializer(), parsed(CloudEvent.parser()), source);
        topology.addProcessor("follow", () -> new Follow(progress), "source");
        topology.addStateStore(store, "follow");
        topology.addSink(
                "output", output, Serdes.String().serializer(), (topic, patch) -> ((Patch) patch).toByteArray(), "follow");

        KafkaStreams streams = new KafkaStreams(topology, settings);
        streams.start();
        progress.through.await();
        // Closing commits: the outputs are flushed, then the offsets go.
        streams.close(CLOSE_TIMEOUT);
        System.out.println("done");
    }
}
