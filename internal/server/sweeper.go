package server

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/kv/kvpb"
	"github.com/quorate-db/quorate/raftnode"
	"github.com/quorate-db/quorate/store"
)

const (
	sweepEvery   = time.Second
	sweepTimeout = 5 * time.Second
	// sweepsAtOnce bounds the shards that are swept side by side.
	sweepsAtOnce = 4
	// sweepRoundsMax bounds the commands for one shard in one round, so that a
	// large backlog does not keep the others waiting.
	sweepRoundsMax = 8
)

// sweeper proposes, for each shard that this node leads, what time has made due:
// expiry, old request ids, old versions. It is the only place where the passing of
// time turns into commands.
type sweeper struct {
	host   *raftnode.Host
	policy store.SweepPolicy
	log    *slog.Logger

	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newSweeper(host *raftnode.Host, retention time.Duration, log *slog.Logger) *sweeper {
	return &sweeper{
		host:   host,
		policy: store.SweepPolicy{RequestWindow: kv.RequestIDWindow, Retention: retention},
		log:    log,
	}
}

func (s *sweeper) start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { s.run(ctx) })
}

func (s *sweeper) close() {
	s.cancel()
	s.wg.Wait()
}

func (s *sweeper) run(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	slots := make(chan struct{}, sweepsAtOnce)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var round sync.WaitGroup
		for _, r := range s.host.Replicas() {
			m, ok := r.Machine().(dataMachine)
			if !ok || !r.Status().LeaderReady {
				continue
			}
			slots <- struct{}{}
			round.Go(func() {
				defer func() { <-slots }()
				s.sweep(ctx, r, m)
			})
		}
		round.Wait()
	}
}

// sweep proposes until nothing is due, or the round is over.
func (s *sweeper) sweep(ctx context.Context, r *raftnode.Replica, m dataMachine) {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	for range sweepRoundsMax {
		command, due := m.SweepCommand(r.NowMs(), s.policy)
		if !due {
			return
		}
		data, err := proto.Marshal(command)
		if err != nil {
			s.log.Error("cannot encode a sweep", "shard", m.Shard(), "err", err)
			return
		}
		answer, err := r.Propose(ctx, data, 1)
		if err != nil {
			// The next round, or the next leader, asks again.
			s.log.Debug("sweep was not applied", "shard", m.Shard(), "err", err)
			return
		}
		var result kvpb.Result
		if err := proto.Unmarshal(answer, &result); err != nil || !result.More {
			return
		}
	}
}
