package keyserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sealbatch/sealbatch/internal/keyserver/audit"
	"github.com/sealbatch/sealbatch/internal/keyserver/store"
	"github.com/sealbatch/sealbatch/internal/service"
)

// bucketMeta holds what the service keeps of itself.
const (
	bucketMeta = audit.HeadBucket
	keyHead    = audit.HeadKey
)

// maxBatch bounds how many decisions share one transaction.
const maxBatch = 256

// operation is one decision: op looks at the records, changes them and returns
// nil, or refuses. Its writes count only if it returns nil or a recorded refusal.
type operation struct {
	event *audit.Event
	op    func(store.Writer) error // nil: only the audit entry is made
	who   string                   // whose budget for lines it takes; "" for the service itself
	done  chan result
}

// recorded is a refusal that is on record: what op wrote counts.
type recorded struct{ error }

func (r *recorded) Unwrap() error { return r.error }

type result struct {
	head    string // signed
	err     error
	omitted bool // there is no entry: it changed nothing, and its who has too many of those
}

// committer applies all changes, in batches: see the package documentation.
type committer struct {
	store      store.Store
	log        *audit.Log
	service    string
	now        func() time.Time
	conditions *service.Conditions
	lines      *lines
	segment    int64 // bytes after which a segment of the log is full
	queue      chan *operation
	control    chan func()   // is run between batches
	full       chan struct{} // has something when a segment of the log is full
	stopped    chan struct{}

	closing  sync.RWMutex
	closed   bool
	checking sync.Mutex // one check at a time
}

func newCommitter(
	records store.Store, log *audit.Log, id string, now func() time.Time, conditions *service.Conditions, segment int64,
) *committer {
	c := &committer{store: records, log: log, service: id, now: now, conditions: conditions, lines: newLines(), segment: segment,
		queue: make(chan *operation, maxBatch), control: make(chan func()), full: make(chan struct{}, 1),
		stopped: make(chan struct{})}
	go c.run()
	return c
}

// send hands something to the committer while it runs.
func (c *committer) send(f func()) error {
	c.closing.RLock()
	defer c.closing.RUnlock()
	if c.closed {
		return errClosed
	}
	f()
	return nil
}

// do decides op and writes its audit entry. The error is op's own, or wraps
// audit.ErrWrite when nothing was changed because it could not be written down.
// It does not end early with a context: what was begun is seen through.
func (c *committer) do(e *audit.Event, op func(store.Writer) error) (signedHead string, err error) {
	r := c.decided(&operation{event: e, op: op})
	return r.head, r.err
}

// decided is do, and says more.
func (c *committer) decided(o *operation) result {
	o.done = make(chan result, 1)
	if err := c.send(func() { c.queue <- o }); err != nil {
		return result{err: err}
	}
	return <-o.done
}

// doAll decides several, which may share transactions.
func (c *committer) doAll(ops []*operation) error {
	var errs []error
	for _, o := range ops {
		o.done = make(chan result, 1)
		if err := c.send(func() { c.queue <- o }); err != nil {
			o.done <- result{err: err}
		}
	}
	for _, o := range ops {
		errs = append(errs, (<-o.done).err)
	}
	return errors.Join(errs...)
}

// close ends the committer once it has done what was handed to it.
func (c *committer) close() error {
	c.closing.Lock()
	c.closed = true
	close(c.queue)
	c.closing.Unlock()
	<-c.stopped
	return c.log.Close()
}

func (c *committer) run() {
	defer close(c.stopped)
	for {
		select {
		case f := <-c.control:
			f()
		case o, ok := <-c.queue:
			if !ok {
				return
			}
			c.commit(c.gather(o))
		}
		if c.log.Size() >= c.segment {
			select {
			case c.full <- struct{}{}:
			default:
			}
		}
	}
}

// gather returns a batch of those that wait.
func (c *committer) gather(first *operation) []*operation {
	batch := []*operation{first}
	for len(batch) < maxBatch {
		select {
		case o, ok := <-c.queue:
			if !ok {
				return batch
			}
			batch = append(batch, o)
		default:
			return batch
		}
	}
	return batch
}

// errNothing ends a transaction of which nothing is to be written down.
var errNothing = errors.New("nothing is to be written down")

func (c *committer) commit(batch []*operation) {
	results := make([]result, len(batch))
	head, written := c.log.Head(), false
	err := c.store.Update(context.Background(), func(w store.Writer) error {
		events, err := c.decideAll(w, batch, results)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			return errNothing
		}
		if head, err = c.log.Append(c.now(), events); err != nil {
			return err
		}
		written = true
		return putJSON(w, bucketMeta, keyHead, head)
	})
	switch {
	case err == nil:
		c.log.Keep(head)
		err = c.sign(head, results)
	case errors.Is(err, errNothing):
		err = c.sign(head, results)
	case written: // the log has it, the store does not
		err = errors.Join(fmt.Errorf("%w: the store: %w", audit.ErrWrite, err), c.log.Undo())
	case !errors.Is(err, audit.ErrWrite):
		err = fmt.Errorf("%w: the store: %w", audit.ErrWrite, err)
	}
	c.conditions.Set(conditionWriting, whyNot(err))
	if errors.Is(err, audit.ErrAltered) {
		c.noteAltered(err)
	}
	for i, o := range batch {
		if err != nil {
			results[i] = result{err: err}
		}
		o.done <- results[i]
	}
}

func whyNot(err error) string {
	if err == nil {
		return ""
	}
	return "they cannot be written; nothing is released"
}

// sign gives all results the head that is written, signed.
func (c *committer) sign(head audit.Head, results []result) error {
	signed, err := c.log.SignHead(c.service, head, c.now())
	if err != nil {
		return fmt.Errorf("sign audit head: %w", err)
	}
	for i := range results {
		results[i].head = signed
	}
	return nil
}

// decideAll decides a batch and returns what is to be written down of it.
func (c *committer) decideAll(w store.Writer, batch []*operation, results []result) (events []*audit.Event, err error) {
	for i, o := range batch {
		before := len(w.Changes())
		if results[i].err, err = c.decide(w, o); err != nil {
			return nil, err
		}
		o.event.Changes = slices.Clone(w.Changes()[before:])
		if len(o.event.Changes) == 0 && o.who != "" && !c.lines.note(o.who, o.event) {
			results[i].omitted = true
			continue
		}
		events = append(events, o.event)
	}
	return events, nil
}

// decide runs one operation. What it refuses is refused; err is the store's
// and fails the batch.
func (c *committer) decide(w store.Writer, o *operation) (refused, err error) {
	if o.op == nil {
		return nil, nil
	}
	v := &overlay{Writer: w, writes: map[[2]string][]byte{}}
	refused = o.op(v)
	_, keeps := errors.AsType[*recorded](refused)
	keeps = keeps || refused == nil
	if keeps && len(v.order) > 0 && o.who != "" {
		if err := c.lines.change(o.who, unitsOf(o.event, v.order)); err != nil {
			refused, keeps = err, false
		}
	}
	if refused != nil {
		o.event.Outcome, o.event.Reason = audit.OutcomeRefused, auditReason(refused)
	}
	if !keeps {
		// Nothing was set, and the line of a refusal is not to be as long as a policy.
		o.event.Policy, o.event.PolicyBefore = nil, nil
		return refused, nil
	}
	return refused, v.flush()
}

// overlay holds an operation's writes back until it is known to succeed; a
// nil value marks a deletion. Its Each, which no operation uses, does not show
// them.
type overlay struct {
	store.Writer
	writes map[[2]string][]byte
	order  [][2]string
}

func (o *overlay) Get(bucket, key string) ([]byte, error) {
	if v, ok := o.writes[[2]string{bucket, key}]; ok {
		if v == nil {
			return nil, store.ErrNotFound
		}
		return v, nil
	}
	return o.Writer.Get(bucket, key)
}

func (o *overlay) set(bucket, key string, value []byte) error {
	k := [2]string{bucket, key}
	if _, ok := o.writes[k]; !ok {
		o.order = append(o.order, k)
	}
	o.writes[k] = value
	return nil
}

func (o *overlay) Put(bucket, key string, value []byte) error {
	return o.set(bucket, key, append([]byte{}, value...))
}

func (o *overlay) Delete(bucket, key string) error { return o.set(bucket, key, nil) }

func (o *overlay) flush() error {
	for _, k := range o.order {
		v := o.writes[k]
		var err error
		if v == nil {
			err = o.Writer.Delete(k[0], k[1])
		} else {
			err = o.Writer.Put(k[0], k[1], v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type getter interface {
	Get(bucket, key string) ([]byte, error)
}

// getJSON reads a record into v; store.ErrNotFound if there is none.
func getJSON(g getter, bucket, key string, v any) error {
	b, err := g.Get(bucket, key)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("record in %s: %w", bucket, err)
	}
	return nil
}

func putJSON(w store.Writer, bucket, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("record in %s: %w", bucket, err)
	}
	return w.Put(bucket, key, b)
}
