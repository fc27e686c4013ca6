package main

import (
	"context"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// processes are clients that begin with the same refresh token, as the
// processes of a service do. The server rotates it, and ends the login if a
// spent one comes again. Each is a client of its own, which shares with the others
// only what it keeps in files.
func processes(size sizes) scenario {
	return scenario{
		name:    "processes",
		measure: measureProcesses,
		lines: []line{
			{title: number(size.processes) + " processes over one refresh token that rotates: the user is logged out", cell: func(own map[string]float64, _ medians) string {
				if own["failed"] > 0 {
					return "yes"
				}
				return "no"
			}},
		},
	}
}

func measureProcesses(ctx context.Context, size sizes, p peer) (sample, error) {
	if p.login == nil {
		return sample{words: "–"}, nil
	}
	w := newWorld()
	defer w.close()
	dir, err := os.MkdirTemp("", "peers")
	if err != nil {
		return sample{}, err
	}
	defer os.RemoveAll(dir)
	w.set(func(c *Conduct) { c.Lifetime = soon })
	refresh := w.login()
	var clients []doer
	for range size.processes {
		d, err := p.login(w, refresh, dir)
		if err != nil {
			return sample{}, err
		}
		clients = append(clients, d)
	}
	failed := 0
	for turn := 0; turn < size.turns && failed == 0; turn++ {
		if turn > 0 {
			if err := pause(ctx, soon+100*time.Millisecond); err != nil {
				return sample{}, err
			}
		}
		failed = together(ctx, clients, w.Plain+"/api")
	}
	return sample{values: map[string]float64{"failed": float64(failed)}}, nil
}

// together sends a request by each client at once, and returns how many fail.
func together(ctx context.Context, clients []doer, url string) int {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second) // some try again and again
	defer cancel()
	var group sync.WaitGroup
	var failed atomic.Int64
	for _, d := range clients {
		group.Go(func() {
			if get(ctx, d, url) != http.StatusOK {
				failed.Add(1)
			}
		})
	}
	group.Wait()
	return int(failed.Load())
}
