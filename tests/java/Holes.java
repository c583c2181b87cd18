import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Makes logs with holes, by Kafka's own client: transactions, committed and aborted, and compaction. Run by `java Holes.java`. */
public final class Holes {
    private static final int PARTITIONS = 3;
    private static final String EVENT = "{\"event_id\":\"e%d\",\"user_id\":\"u%d\",\"event_type\":\"view\",\"product_id\":\"p1\",\"session_id\":\"s1\","
            + "\"value\":1.0,\"event_timestamp\":\"2026-01-01T00:00:00Z\",\"ingestion_timestamp\":\"2026-01-01T00:00:00Z\"}";
    private static final String PRODUCT = "{\"product_id\":\"p%d\",\"title\":\"t%d\",\"price\":12.5,\"category\":\"Books\",\"rating_score\":4.0,"
            + "\"rating_count\":3,\"ingestion_date\":\"2026-01-01T00:00:00Z\"}";
    private static int sent;

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "transactions" -> transactions(args[1], args[2], Integer.parseInt(args[3]));
            case "compact" -> compact(args[1], args[2], Integer.parseInt(args[3]));
            case "read" -> read(args[1], args[2]).forEach(r -> System.out.println(r.partition() + " " + r.offset()));
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    private static Properties client(String servers) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", servers);
        return properties;
    }

    private static KafkaProducer<String, String> producer(String servers, String transactionalId) {
        Properties properties = client(servers);
        if (transactionalId != null) properties.putAll(Map.of("transactional.id", transactionalId, "transaction.timeout.ms", "600000"));
        return new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer());
    }

    private static void send(KafkaProducer<String, String> producer, String topic, int records) {
        for (int i = 0; i < records; i++, sent++) {
            producer.send(new ProducerRecord<>(topic, sent % PARTITIONS, "k" + sent, String.format(EVENT, sent, sent % 50)));
        }
    }

    /** Every third transaction is aborted. The last one stays open until a line comes; it is committed then, and aborted ones follow. */
    private static void transactions(String servers, String topic, int count) throws Exception {
        create(servers, topic, Map.of());
        try (KafkaProducer<String, String> producer = producer(servers, "holes")) {
            producer.initTransactions();
            for (int t = 0; t < count; t++) {
                producer.beginTransaction();
                send(producer, topic, 7 + t % 20);
                producer.flush();
                if (t % 3 == 2) producer.abortTransaction();
                else producer.commitTransaction();
            }
            producer.beginTransaction();
            send(producer, topic, 40);
            producer.flush();
            System.out.println("open");
            System.in.read();
            producer.commitTransaction();
            for (int t = 0; t < 4; t++) {
                producer.beginTransaction();
                send(producer, topic, 11);
                producer.flush();
                producer.abortTransaction();
            }
        }
        System.out.println("done");
    }

    /** Sends to few keys, and waits until the broker has taken most of the records out again. */
    private static void compact(String servers, String topic, int records) throws Exception {
        try (Admin admin = Admin.create(client(servers))) {
            ConfigResource brokers = new ConfigResource(ConfigResource.Type.BROKER, "");
            AlterConfigOp often = new AlterConfigOp(new ConfigEntry("log.cleaner.backoff.ms", "500"), AlterConfigOp.OpType.SET);
            admin.incrementalAlterConfigs(Map.of(brokers, List.of(often))).all().get(30, TimeUnit.SECONDS);
        }
        create(servers, topic, Map.of("cleanup.policy", "compact", "segment.bytes", "4096", "min.cleanable.dirty.ratio", "0.01",
                "delete.retention.ms", "0", "file.delete.delay.ms", "100"));
        try (KafkaProducer<String, String> producer = producer(servers, null)) {
            for (int i = 0; i < records; i++) {
                int key = i % 90;
                producer.send(new ProducerRecord<>(topic, key % PARTITIONS, "k" + key, String.format(PRODUCT, key, i)));
                if (i % 10 == 0) producer.flush();
            }
        }
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(120);
        while (read(servers, topic).size() > records / 2) {
            if (System.nanoTime() > deadline) throw new IllegalStateException("the broker has not compacted the topic");
            Thread.sleep(200);
        }
    }

    private static void create(String servers, String topic, Map<String, String> configuration) throws Exception {
        try (Admin admin = Admin.create(client(servers))) {
            admin.createTopics(List.of(new NewTopic(topic, PARTITIONS, (short) 1).configs(configuration))).all().get(30, TimeUnit.SECONDS);
        }
    }

    /** What a reader of committed records sees now. */
    private static List<ConsumerRecord<byte[], byte[]>> read(String servers, String topic) {
        Properties properties = client(servers);
        properties.put("isolation.level", "read_committed");
        List<ConsumerRecord<byte[], byte[]>> seen = new ArrayList<>();
        try (var consumer = new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            Collection<TopicPartition> all = consumer.partitionsFor(topic).stream().map(p -> new TopicPartition(topic, p.partition())).toList();
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            while (all.stream().anyMatch(p -> consumer.position(p) < ends.get(p))) consumer.poll(Duration.ofMillis(200)).forEach(seen::add);
        }
        return seen;
    }
}
