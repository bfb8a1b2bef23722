package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// saramaHandler collects what the partitions' goroutines claim and lets one of them at a time print,
// mark and commit, so that a commit covers what was printed before it and nothing else.
type saramaHandler struct {
	o      options
	lock   sync.Mutex
	seen   int
	enough context.CancelFunc
	errs   <-chan error
}

func (h *saramaHandler) Setup(s sarama.ConsumerGroupSession) error {
	emit(map[string]any{"assigned": partitionsOf(s.Claims())})
	return nil
}

func (h *saramaHandler) Cleanup(s sarama.ConsumerGroupSession) error {
	emit(map[string]any{"revoked": partitionsOf(s.Claims())})
	return nil
}

func (h *saramaHandler) full() bool {
	return h.o.count > 0 && h.seen >= h.o.count
}

func (h *saramaHandler) take(s sarama.ConsumerGroupSession, first *sarama.ConsumerMessage,
	more <-chan *sarama.ConsumerMessage) {
	h.lock.Lock()
	defer h.lock.Unlock()
	if h.full() || s.Context().Err() != nil {
		return
	}
	var next int64
	for m := first; ; {
		headers := []header{}
		for _, x := range m.Headers {
			headers = append(headers, header{string(x.Key), x.Value})
		}
		emitRecord(record{m.Partition, m.Offset, m.Timestamp.UnixMilli(), m.Key, m.Value, headers})
		s.MarkMessage(m, "")
		next = m.Offset + 1
		h.seen++
		if h.full() {
			break
		}
		select {
		case m = <-more:
		default:
			m = nil
		}
		if m == nil {
			break
		}
	}
	s.Commit()
	select {
	case err := <-h.errs:
		emitCommit(nil, err)
	default:
		emitCommit(map[int32]int64{first.Partition: next}, nil)
	}
	if h.full() {
		h.enough()
	}
}

func (h *saramaHandler) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m := <-c.Messages():
			if m == nil {
				return nil
			}
			h.take(s, m, c.Messages())
		case <-s.Context().Done():
			return nil
		}
	}
}

func saramaCommitted(o options, conf *sarama.Config) error {
	admin, err := sarama.NewClusterAdmin([]string{o.bootstrap}, conf)
	if err != nil {
		return err
	}
	defer admin.Close()
	topics, err := admin.DescribeTopics([]string{o.topic})
	if err != nil || len(topics) != 1 {
		return fmt.Errorf("describe %s: %v", o.topic, err)
	}
	all := []int32{}
	for _, p := range topics[0].Partitions {
		all = append(all, p.ID)
	}
	got, err := admin.ListConsumerGroupOffsets(o.group, map[string][]int32{o.topic: all})
	if err != nil {
		return err
	}
	committed := map[int32]int64{}
	for p, b := range got.Blocks[o.topic] {
		committed[p] = b.Offset
	}
	emit(map[string]any{"committed": committed})
	return nil
}

func runSarama(o options, leave <-chan struct{}) error {
	conf := sarama.NewConfig()
	conf.Consumer.Offsets.Initial = sarama.OffsetOldest
	conf.Consumer.Offsets.AutoCommit.Enable = false
	conf.Consumer.Group.Session.Timeout = o.session()
	conf.Consumer.Group.Heartbeat.Interval = time.Second
	// A commit waits behind the fetch on the same connection.
	conf.Consumer.MaxWaitTime = 50 * time.Millisecond
	conf.Consumer.Return.Errors = true
	conf.Consumer.Group.InstanceId = o.instanceID
	group, err := sarama.NewConsumerGroup([]string{o.bootstrap}, o.group, conf)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-leave:
			cancel()
		case <-ctx.Done():
		}
	}()
	h := &saramaHandler{o: o, enough: cancel, errs: group.Errors()}
	for ctx.Err() == nil {
		if err := group.Consume(ctx, []string{o.topic}, h); err != nil && ctx.Err() == nil {
			emit(map[string]any{"error": err.Error()})
			time.Sleep(100 * time.Millisecond)
		}
	}
	if err := saramaCommitted(o, conf); err != nil {
		return err
	}
	return group.Close()
}
