package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// workerEnv makes a process of the test binary a worker. Its value is the job.
const workerEnv = "STORETEST_WORKER"

// A job is the configuration of a worker.
type job struct {
	Worker       int
	Goroutines   int
	Address      string // of the store
	TokenURL     string
	APIURL       string
	ClientID     string
	RefreshToken string // the initial refresh token, the same for all
}

// A command is a line of a worker's input. The worker ends when its input ends.
type command struct {
	Do    string
	Token json.RawMessage `json:",omitempty"` // for set
}

// The commands.
const (
	doWork = "work" // send requests until stop
	doSet  = "set"  // log in
	doStop = "stop" // send no more requests, and wait for those in progress
)

// An event is a line of a worker's output.
type event struct {
	Done   string   `json:",omitempty"` // the command that was carried out; the first is the start
	Error  string   `json:",omitempty"` // of the command
	Saved  string   `json:",omitempty"` // a refresh token that the store has saved
	Failed *failure `json:",omitempty"`
}

// A failure is a request whose answer was not 200.
type failure struct {
	Goroutine string
	At        time.Time
	Reason    string
	LoggedOut bool // the reason is tokensource.ErrReauthenticate, or a 401
}

// workerHeader names the sender of a request.
const workerHeader = "Storetest-Worker"

// exchangeTimeout is short, because the lock of a killed worker may last 15 s longer.
const exchangeTimeout = 5 * time.Second

// A worker is one process.
type worker struct {
	job    job
	cache  *tokensource.Cache
	client *http.Client
	all    sync.WaitGroup // the goroutines that send requests

	mu  sync.Mutex // guards out
	out *json.Encoder
}

// work is a worker from its start to its end.
func work(t *testing.T, spec string, open func(address string) tokensource.Store) {
	w := &worker{out: json.NewEncoder(os.Stdout)}
	if err := json.Unmarshal([]byte(spec), &w.job); err != nil {
		t.Fatal(err)
	}
	w.cache = &tokensource.Cache{Source: w.job.stored(&reporting{open(w.job.Address), w})}
	w.client = &http.Client{Transport: &transport.Auth{
		Source: w.cache,
		Base:   &http.Transport{MaxIdleConnsPerHost: w.job.Goroutines},
	}}
	w.say(event{Done: "start"})
	w.obey(json.NewDecoder(os.Stdin))
}

// stored returns the configuration that all workers share.
func (j job) stored(store tokensource.Store) *tokensource.Stored {
	return &tokensource.Stored{
		Source: &tokensource.RefreshToken{
			Endpoint: tokensource.Endpoint{
				URL: j.TokenURL, ClientID: j.ClientID,
				Client: &http.Client{Transport: labelled(fmt.Sprint(j.Worker))},
			},
			RefreshToken: j.RefreshToken,
		},
		Store:   store,
		Key:     key,
		Timeout: exchangeTimeout,
	}
}

// labelled is a RoundTripper that adds the worker's name.
type labelled string

func (l labelled) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set(workerHeader, string(l))
	return http.DefaultTransport.RoundTrip(req)
}

// obey carries out the commands of the input until it ends.
func (w *worker) obey(in *json.Decoder) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	for c := (command{}); in.Decode(&c) == nil; c = (command{}) {
		var err error
		switch c.Do {
		case doWork:
			w.start(ctx)
		case doSet:
			err = w.set(c.Token)
		case doStop:
			stop()
			w.all.Wait()
		}
		done := event{Done: c.Do}
		if err != nil {
			done.Error = err.Error()
		}
		w.say(done)
	}
}

func (w *worker) set(data []byte) error {
	token, err := tokensource.Unmarshal(data)
	if err != nil {
		return err
	}
	return w.cache.Set(context.Background(), token)
}

// start sends requests until ctx ends. It pauses after a failed request, because
// without a token nothing else would slow the worker down.
func (w *worker) start(ctx context.Context) {
	for i := range w.job.Goroutines {
		name := fmt.Sprintf("%d/%d", w.job.Worker, i)
		w.all.Go(func() {
			for ctx.Err() == nil {
				if err := w.request(name); err != nil {
					loggedOut := errors.Is(err, tokensource.ErrReauthenticate) || err == errUnauthorized
					w.say(event{Failed: &failure{name, time.Now(), err.Error(), loggedOut}})
					pause(ctx, apiLatency)
				}
			}
		})
	}
}

func (w *worker) request(name string) error {
	req, err := http.NewRequest(http.MethodGet, w.job.APIURL, nil)
	if err != nil {
		return err
	}
	req.Header.Set(workerHeader, name)
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		return errUnauthorized
	}
	return errors.New(resp.Status)
}

// errUnauthorized is the error for a 401 that Auth returns, because the token that
// replaced a refused one was refused as well.
var errUnauthorized = errors.New("401")

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (w *worker) say(e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out.Encode(e)
}

// reporting is a Store that reports what it has saved immediately after the save.
type reporting struct {
	tokensource.Store
	worker *worker
}

func (r *reporting) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	return r.Store.Update(ctx, key, func(value []byte, save func([]byte) error) error {
		return fn(value, func(value []byte) error {
			err := save(value)
			if err == nil {
				r.worker.say(event{Saved: refreshToken(value)})
			}
			return err
		})
	})
}

// refreshToken returns the refresh token in a value of Stored, or "" if it has none.
func refreshToken(value []byte) string {
	var v struct {
		Token struct {
			RefreshToken string `json:"refresh_token"`
		}
	}
	json.Unmarshal(value, &v)
	return v.Token.RefreshToken
}
