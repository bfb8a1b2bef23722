package main

import (
	"context"
	"errors"
	"time"

	"github.com/segmentio/kafka-go"
)

func kafkaGoRecord(m kafka.Message) record {
	headers := []header{}
	for _, h := range m.Headers {
		headers = append(headers, header{h.Key, h.Value})
	}
	return record{int32(m.Partition), m.Offset, m.Time.UnixMilli(), m.Key, m.Value, headers}
}

func kafkaGoCommitted(ctx context.Context, o options) error {
	c := &kafka.Client{Addr: kafka.TCP(o.bootstrap)}
	md, err := c.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{o.topic}})
	if err != nil {
		return err
	}
	all := []int{}
	for _, p := range md.Topics[0].Partitions {
		all = append(all, p.ID)
	}
	got, err := c.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: o.group,
		Topics: map[string][]int{o.topic: all}})
	if err != nil {
		return err
	}
	committed := map[int32]int64{}
	for _, p := range got.Topics[o.topic] {
		committed[int32(p.Partition)] = p.CommittedOffset
	}
	emit(map[string]any{"committed": committed})
	return nil
}

func runKafkaGo(o options, leave <-chan struct{}) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-leave
		cancel()
	}()
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{o.bootstrap}, GroupID: o.group,
		Topic: o.topic, StartOffset: kafka.FirstOffset, SessionTimeout: o.session(),
		HeartbeatInterval: time.Second, MaxWait: 100 * time.Millisecond})
	batch := []kafka.Message{}
	positions := map[int32]int64{}
	for seen := 0; o.count == 0 || seen < o.count; {
		wait, done := context.WithTimeout(ctx, 50*time.Millisecond)
		m, err := r.FetchMessage(wait)
		done()
		if err == nil {
			emitRecord(kafkaGoRecord(m))
			batch = append(batch, m)
			positions[int32(m.Partition)] = m.Offset + 1
			seen++
		} else if ctx.Err() != nil {
			break
		} else if !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if len(batch) > 0 && (err != nil || len(batch) >= 100 || seen == o.count) {
			emitCommit(positions, r.CommitMessages(context.Background(), batch...))
			batch, positions = batch[:0], map[int32]int64{}
		}
	}
	if err := kafkaGoCommitted(context.Background(), o); err != nil {
		return err
	}
	return r.Close()
}
