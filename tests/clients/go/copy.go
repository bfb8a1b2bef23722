package main

import (
	"bufio"
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	copyRecords = 20 // of one transaction, at most
	copyAborts  = 3  // each so manieth transaction is aborted and done again
	copyTimeout = 20 * time.Second
)

// input is standard input: a line lets a copier that holds go on, the end of it ends any.
type input struct {
	lines chan struct{}
	end   chan struct{}
}

func readInput() *input {
	in := &input{make(chan struct{}, 16), make(chan struct{})}
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			in.lines <- struct{}{}
		}
		close(in.end)
	}()
	return in
}

// holds waits in the first transaction of a copier that was told to.
func (in *input) holds(o *options, n int) {
	if o.hold {
		o.hold = false
		emit(map[string]any{"holding": n})
		select {
		case <-in.lines:
		case <-in.end:
		}
	}
}

func copyFranz(o options, in *input) error {
	ctx := context.Background()
	s, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(o.bootstrap), kgo.TransactionalID(o.id),
		kgo.TransactionTimeout(copyTimeout), kgo.ConsumerGroup(o.group), kgo.ConsumeTopics(o.topic),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.RequireStableFetchOffsets(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(6*time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer s.Close()
	if _, _, err := s.Client().ProducerID(ctx); err != nil {
		return err
	}
	emit(map[string]any{"ready": true})
	for round := 1; ; {
		select {
		case <-in.end:
			return nil
		default:
		}
		wait, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		records := s.PollRecords(wait, copyRecords).Records()
		cancel()
		if len(records) == 0 {
			continue
		}
		if err := s.Begin(); err != nil {
			return err
		}
		e := kgo.AbortingFirstErrPromise(s.Client())
		for _, r := range records {
			s.Produce(ctx, &kgo.Record{Topic: o.to, Partition: r.Partition, Key: r.Key, Value: r.Value}, e.Promise())
		}
		if err := e.Err(); err != nil {
			return err
		}
		in.holds(&o, len(records))
		committed, err := s.End(ctx, kgo.TransactionEndTry(round%copyAborts != 0))
		if err != nil {
			return err
		}
		if committed {
			emit(map[string]any{"copied": len(records)})
		} else {
			emit(map[string]any{"aborted": len(records)})
		}
		round++
	}
}

// saramaCopier copies what its partitions' goroutines bring, one transaction at a time.
type saramaCopier struct {
	o      options
	in     *input
	w      sarama.SyncProducer
	lock   sync.Mutex
	round  int
	failed error
	stop   context.CancelFunc
}

func (h *saramaCopier) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (h *saramaCopier) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h *saramaCopier) transaction(ms []*sarama.ConsumerMessage) error {
	if err := h.w.BeginTxn(); err != nil {
		return err
	}
	for _, m := range ms {
		if _, _, err := h.w.SendMessage(&sarama.ProducerMessage{Topic: h.o.to, Partition: m.Partition,
			Key: sarama.ByteEncoder(m.Key), Value: sarama.ByteEncoder(m.Value)}); err != nil {
			return err
		}
	}
	last := ms[len(ms)-1]
	if err := h.w.AddMessageToTxn(last, h.o.group, nil); err != nil {
		return err
	}
	h.in.holds(&h.o, len(ms))
	h.round++
	if h.round%copyAborts == 0 {
		if err := h.w.AbortTxn(); err != nil {
			return err
		}
		emit(map[string]any{"aborted": len(ms)})
		return h.transaction(ms)
	}
	if err := h.w.CommitTxn(); err != nil {
		return err
	}
	emit(map[string]any{"copied": len(ms)})
	return nil
}

func (h *saramaCopier) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for m := range c.Messages() {
		ms := []*sarama.ConsumerMessage{m}
		for more := true; more && len(ms) < copyRecords; {
			select {
			case m := <-c.Messages():
				if more = m != nil; more {
					ms = append(ms, m)
				}
			default:
				more = false
			}
		}
		h.lock.Lock()
		if h.failed == nil && s.Context().Err() == nil {
			if h.failed = h.transaction(ms); h.failed != nil {
				h.stop()
			}
		}
		h.lock.Unlock()
	}
	return nil
}

func copySarama(o options, in *input) error {
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	conf.Consumer.IsolationLevel = sarama.ReadCommitted
	conf.Consumer.Offsets.Initial = sarama.OffsetOldest
	conf.Consumer.Offsets.AutoCommit.Enable = false
	conf.Consumer.Group.Session.Timeout = 6 * time.Second
	conf.Consumer.Group.Heartbeat.Interval = time.Second
	conf.Consumer.MaxWaitTime = 50 * time.Millisecond
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Idempotent = true
	conf.Net.MaxOpenRequests = 1
	conf.Producer.Partitioner = sarama.NewManualPartitioner
	conf.Producer.Return.Successes = true
	conf.Producer.Transaction.ID = o.id
	conf.Producer.Transaction.Timeout = copyTimeout
	w, err := sarama.NewSyncProducer([]string{o.bootstrap}, conf)
	if err != nil {
		return err
	}
	defer w.Close()
	emit(map[string]any{"ready": true})
	group, err := sarama.NewConsumerGroup([]string{o.bootstrap}, o.group, conf)
	if err != nil {
		return err
	}
	defer group.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-in.end
		cancel()
	}()
	h := &saramaCopier{o: o, in: in, w: w, stop: cancel}
	for ctx.Err() == nil {
		if err := group.Consume(ctx, []string{o.topic}, h); err != nil && ctx.Err() == nil {
			if errors.Is(err, sarama.ErrClosedConsumerGroup) {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return h.failed
}
