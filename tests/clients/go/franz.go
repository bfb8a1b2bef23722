package main

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func partitionsOf(m map[string][]int32) []int32 {
	all := []int32{}
	for _, ps := range m {
		all = append(all, ps...)
	}
	return all
}

func franzBatch(ctx context.Context, c *kgo.Client) int {
	wait, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	fetches := c.PollRecords(wait, 500)
	defer c.AllowRebalance()
	positions := map[int32]int64{}
	records := fetches.Records()
	for _, r := range records {
		headers := []header{}
		for _, h := range r.Headers {
			headers = append(headers, header{h.Key, h.Value})
		}
		emitRecord(record{r.Partition, r.Offset, r.Timestamp.UnixMilli(), r.Key, r.Value, headers})
		positions[r.Partition] = r.Offset + 1
	}
	if len(records) > 0 {
		emitCommit(positions, c.CommitRecords(ctx, records...))
	}
	return len(records)
}

func runFranz(o options, leave <-chan struct{}) error {
	ctx := context.Background()
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.bootstrap), kgo.ConsumerGroup(o.group), kgo.ConsumeTopics(o.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(), kgo.SessionTimeout(o.session()),
		kgo.HeartbeatInterval(time.Second),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, m map[string][]int32) {
			emit(map[string]any{"assigned": partitionsOf(m)})
		}),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, m map[string][]int32) {
			emit(map[string]any{"revoked": partitionsOf(m)})
		}),
	}
	if o.instanceID != "" {
		opts = append(opts, kgo.InstanceID(o.instanceID))
	}
	if o.assignor == "range" {
		opts = append(opts, kgo.Balancers(kgo.RangeBalancer()))
	}
	c, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	for seen := 0; o.count == 0 || seen < o.count; {
		select {
		case <-leave:
			o.count = seen + 1
			seen = o.count
		default:
			seen += franzBatch(ctx, c)
		}
	}
	// What was delivered and is still ours; a commit after its records may have failed.
	if err := c.CommitUncommittedOffsets(ctx); err != nil {
		emit(map[string]any{"commit_failed": err.Error()})
	}
	got, err := kadm.NewClient(c).FetchOffsets(ctx, o.group)
	if err != nil {
		return err
	}
	committed := map[int32]int64{}
	for p, r := range got[o.topic] {
		committed[p] = r.At
	}
	emit(map[string]any{"committed": committed})
	c.Close()
	return nil
}
