package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The record with this number, as every writer makes it.
func numbered(i int) (partition int32, key, value, n []byte) {
	return int32(i % 4), []byte(fmt.Sprintf("k%d", i)),
		[]byte(fmt.Sprintf("v%d %s", i, strings.Repeat("x", i%50))), []byte(fmt.Sprint(i))
}

func say(i int, partition int32, offset int64) {
	emit(map[string]any{"i": i, "p": partition, "o": offset})
}

func writeFranz(o options) error {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	opts := []kgo.Opt{kgo.SeedBrokers(o.bootstrap), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[o.codec])}
	if !o.idempotent {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	c, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer c.Close()
	failed := make(chan error, o.count)
	for i := 0; i < o.count; i++ {
		if o.rate > 0 && i%20 == 0 {
			time.Sleep(20 * time.Second / time.Duration(o.rate))
		}
		p, k, v, n := numbered(i)
		c.Produce(context.Background(), &kgo.Record{Topic: o.topic, Partition: p, Key: k, Value: v,
			Headers: []kgo.RecordHeader{{Key: "n", Value: n}}}, func(r *kgo.Record, err error) {
			if err == nil {
				say(i, r.Partition, r.Offset)
			}
			failed <- err
		})
	}
	for i := 0; i < o.count; i++ {
		if err := <-failed; err != nil {
			return err
		}
	}
	return nil
}

func writeSarama(o options) error {
	codecs := map[string]sarama.CompressionCodec{"none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP,
		"snappy": sarama.CompressionSnappy, "lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD}
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Idempotent = o.idempotent
	if o.idempotent {
		conf.Net.MaxOpenRequests = 1
	}
	conf.Producer.Compression = codecs[o.codec]
	conf.Producer.Partitioner = sarama.NewManualPartitioner
	conf.Producer.Return.Successes = true
	w, err := sarama.NewAsyncProducer([]string{o.bootstrap}, conf)
	if err != nil {
		return err
	}
	go func() {
		for i := 0; i < o.count; i++ {
			p, k, v, n := numbered(i)
			w.Input() <- &sarama.ProducerMessage{Topic: o.topic, Partition: p, Key: sarama.ByteEncoder(k),
				Value: sarama.ByteEncoder(v), Metadata: i,
				Headers: []sarama.RecordHeader{{Key: []byte("n"), Value: n}}}
		}
	}()
	for i := 0; i < o.count; i++ {
		select {
		case m := <-w.Successes():
			say(m.Metadata.(int), m.Partition, m.Offset)
		case err := <-w.Errors():
			return err
		}
	}
	return w.Close()
}

func writeKafkaGo(o options) error {
	codecs := map[string]kafka.Compression{"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}
	w := &kafka.Writer{Addr: kafka.TCP(o.bootstrap), Topic: o.topic, RequiredAcks: kafka.RequireAll,
		Compression: codecs[o.codec], BatchTimeout: 2 * time.Millisecond, BatchSize: 50,
		Balancer: kafka.BalancerFunc(func(m kafka.Message, _ ...int) int {
			return m.WriterData.(int) % 4
		}),
		Completion: func(messages []kafka.Message, err error) {
			for _, m := range messages {
				if err == nil {
					say(m.WriterData.(int), int32(m.Partition), m.Offset)
				}
			}
		}}
	batch := []kafka.Message{}
	for i := 0; i < o.count; i++ {
		_, k, v, n := numbered(i)
		batch = append(batch, kafka.Message{Key: k, Value: v, WriterData: i,
			Headers: []kafka.Header{{Key: "n", Value: n}}})
	}
	if err := w.WriteMessages(context.Background(), batch...); err != nil {
		return err
	}
	return w.Close()
}
