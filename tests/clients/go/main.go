// Drivers for the three Go clients; the contract is in ../README.md.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

type options struct {
	bootstrap, topic, group, instanceID, assignor string
	codec, to, id                                 string
	count, rate, sessionMs                        int
	idempotent, hold                              bool
}

func (o options) session() time.Duration { return time.Duration(o.sessionMs) * time.Millisecond }

type header struct {
	name  string
	value []byte
}

type record struct {
	partition int32
	offset    int64
	timestamp int64
	key       []byte
	value     []byte
	headers   []header
}

var (
	outLock sync.Mutex
	out     = bufio.NewWriter(os.Stdout)
)

// monotonic is CLOCK_MONOTONIC, which all processes share; Go shows only differences of it.
func monotonic() int64 {
	var ts syscall.Timespec
	const clockMonotonic = 1
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&ts)), 0)
	return ts.Nano()
}

// emit writes one line at once: a killed driver must have said all that it did.
func emit(event map[string]any) {
	event["t"] = monotonic()
	line, err := json.Marshal(event)
	if err != nil {
		fail(err)
	}
	outLock.Lock()
	defer outLock.Unlock()
	out.Write(line)
	out.WriteByte('\n')
	out.Flush()
}

func b64(x []byte) any {
	if x == nil {
		return nil
	}
	return base64.StdEncoding.EncodeToString(x)
}

func emitRecord(r record) {
	headers := [][2]any{}
	for _, h := range r.headers {
		headers = append(headers, [2]any{h.name, b64(h.value)})
	}
	emit(map[string]any{"p": r.partition, "o": r.offset, "ts": r.timestamp, "k": b64(r.key),
		"v": b64(r.value), "h": headers})
}

func emitCommit(positions map[int32]int64, err error) {
	if err != nil {
		emit(map[string]any{"commit_failed": err.Error()})
	} else {
		emit(map[string]any{"commit": positions})
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// stdinEnd is closed at the end of standard input.
func stdinEnd() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	return done
}

func main() {
	drivers := map[string]func(options, <-chan struct{}) error{
		"franz": runFranz, "sarama": runSarama, "kafka-go": runKafkaGo,
	}
	writers := map[string]func(options) error{
		"write-franz": writeFranz, "write-sarama": writeSarama, "write-kafka-go": writeKafkaGo,
	}
	copiers := map[string]func(options, *input) error{"copy-franz": copyFranz, "copy-sarama": copySarama}
	if len(os.Args) < 2 || (drivers[os.Args[1]] == nil && writers[os.Args[1]] == nil && copiers[os.Args[1]] == nil) {
		fail(fmt.Errorf("usage: driver [write-|copy-]franz|sarama|kafka-go --bootstrap … --topic … --group … --count …"))
	}
	var o options
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	flags.StringVar(&o.bootstrap, "bootstrap", "", "")
	flags.StringVar(&o.topic, "topic", "", "")
	flags.StringVar(&o.group, "group", "", "")
	flags.StringVar(&o.instanceID, "instance-id", "", "")
	flags.StringVar(&o.assignor, "assignor", "", "")
	flags.IntVar(&o.count, "count", 0, "")
	flags.IntVar(&o.sessionMs, "session-ms", 6000, "")
	flags.StringVar(&o.codec, "codec", "none", "")
	flags.IntVar(&o.rate, "rate", 0, "")
	flags.StringVar(&o.to, "to", "", "")
	flags.StringVar(&o.id, "id", "", "")
	flags.BoolVar(&o.hold, "hold", false, "")
	idempotent := flags.String("idempotent", "true", "")
	flags.Parse(os.Args[2:])
	o.idempotent = *idempotent == "true"
	if write := writers[os.Args[1]]; write != nil {
		if err := write(o); err != nil {
			fail(err)
		}
		return
	}
	if copies := copiers[os.Args[1]]; copies != nil {
		if err := copies(o, readInput()); err != nil {
			emit(map[string]any{"error": err.Error()})
			os.Exit(1)
		}
		return
	}
	if err := drivers[os.Args[1]](o, stdinEnd()); err != nil {
		fail(err)
	}
}
