package httpd

import (
	"strconv"
	"time"

	"github.com/quorate-db/quorate/kv"
)

// look checks a request that reads from the control plane, after all of its
// parameters were taken.
func (x *exchange) look() (Admin, error) {
	if err := x.plain(); err != nil {
		return nil, err
	}
	return x.admin()
}

func (s *Server) getProblems(x *exchange) error {
	admin, err := x.look()
	if err != nil {
		return err
	}
	problems, err := admin.Problems(x.ctx)
	if err != nil {
		return err
	}
	out := struct {
		Problems []problemJSON `json:"problems"`
	}{make([]problemJSON, len(problems))}
	for i := range problems {
		out.Problems[i] = asProblemJSON(&problems[i])
	}
	return x.reply(out)
}

func (s *Server) getOperations(x *exchange) error {
	admin, err := x.look()
	if err != nil {
		return err
	}
	operations, err := admin.Operations(x.ctx)
	if err != nil {
		return err
	}
	out := struct {
		Operations []operationJSON `json:"operations"`
	}{make([]operationJSON, len(operations))}
	for i := range operations {
		out.Operations[i] = asOperationJSON(&operations[i])
	}
	return x.reply(out)
}

func (s *Server) getOperation(x *exchange) error {
	id, err := x.pathNumber("operation")
	if err != nil {
		return err
	}
	admin, err := x.look()
	if err != nil {
		return err
	}
	o, err := admin.Operation(x.ctx, id)
	if err != nil {
		return err
	}
	return x.reply(asOperationJSON(&o))
}

func (s *Server) cancelOperation(x *exchange) error {
	id, err := x.pathNumber("operation")
	if err != nil {
		return err
	}
	admin, err := x.change()
	if err != nil {
		return err
	}
	o, err := admin.Cancel(x.ctx, id)
	if err != nil {
		return err
	}
	return x.reply(asOperationJSON(&o))
}

// eventsPoll is how often a waiting request looks for new events. They come into
// the log about once a second.
const eventsPoll = 250 * time.Millisecond

// answerMargin is left of a request's time for the answer.
const answerMargin = 500 * time.Millisecond

// getEvents serves events after a sequence number; with wait it holds the request
// until there are some.
func (s *Server) getEvents(x *exchange) error {
	var after uint64
	var err error
	if v, ok := x.query.take("after"); ok {
		if after, err = strconv.ParseUint(v, 10, 64); err != nil {
			return invalid("query: after: want the sequence number of an event")
		}
	}
	limit := kv.EventsDefault
	if v, ok := x.query.take("limit"); ok {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > kv.EventsMax {
			return invalid("query: limit: want a number from 1 to " + strconv.Itoa(kv.EventsMax))
		}
	}
	var wait time.Duration
	if v, ok := x.query.take("wait"); ok {
		if wait, err = time.ParseDuration(v); err != nil || wait < 0 || wait > kv.RequestTimeoutMax {
			return invalid("query: wait: want a duration like 5s, at most " + kv.RequestTimeoutMax.String())
		}
	}
	admin, err := x.look()
	if err != nil {
		return err
	}
	events, err := x.awaitEvents(admin, after, limit, wait)
	if err != nil {
		return err
	}
	out := struct {
		Events []eventJSON `json:"events"`
		Next   uint64      `json:"next"` // to be given as after
	}{make([]eventJSON, len(events)), after}
	for i := range events {
		out.Events[i] = asEventJSON(&events[i])
		out.Next = events[i].Seq
	}
	return x.reply(out)
}

// awaitEvents looks until there are events, the wait is over, or the server stops.
// Who waits counts as a stream, so that the others find a place.
func (x *exchange) awaitEvents(admin Admin, after uint64, limit int, wait time.Duration) ([]kv.Event, error) {
	events, err := admin.Events(x.ctx, after, limit)
	if err != nil || len(events) > 0 || wait == 0 {
		return events, err
	}
	if !x.enterStream() {
		return nil, refusal(kv.CodeOverloaded, "too many requests wait at this node")
	}
	defer x.leaveStream()
	end := time.NewTimer(min(wait, x.timeout-min(answerMargin, x.timeout/2)))
	defer end.Stop()
	tick := time.NewTicker(eventsPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-end.C:
			return nil, nil
		case <-x.s.drain:
			return nil, nil
		case <-x.ctx.Done():
			return nil, x.ctx.Err()
		}
		if err := x.stillAllowed(); err != nil {
			return nil, err
		}
		if events, err = admin.Events(x.ctx, after, limit); err != nil || len(events) > 0 {
			return events, err
		}
	}
}
