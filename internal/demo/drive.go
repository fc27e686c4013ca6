package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/transport"
)

// A driver sends requests with many clients at once.
type driver struct {
	record  *record
	client  *http.Client
	url     string
	clients int
	uploads bool                 // POST an upload; otherwise GET
	more    func() bool          // reports whether to send another request; may block
	pause   func() time.Duration // how long a client rests after a request
}

// newDriver makes a client as a user of the library would, but for the probe.
func newDriver(r *record, source tokensource.Source, base *http.Transport, o *options) *driver {
	auth := &transport.Auth{Source: source, Base: probe{base, r}, AllowHTTP: o.allowHTTP}
	return &driver{
		record:  r,
		client:  &http.Client{Transport: auth},
		clients: o.clients,
	}
}

// newTransport keeps a connection for each client.
func newTransport(clients int) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, clients
	return t
}

// drive returns when there is no more to send, or ctx has ended, and
// each request has been answered: the end of ctx cuts none off.
func (d *driver) drive(ctx context.Context) {
	var clients sync.WaitGroup
	for i := range d.clients {
		clients.Go(func() {
			for ctx.Err() == nil && d.more() {
				d.exchange(i)
				wait(ctx, d.pause())
			}
		})
	}
	clients.Wait()
}

// answerTime is long after any server has given up.
const answerTime = time.Minute

// exchange sends one request and records what became of it.
func (d *driver) exchange(client int) {
	x := &exchange{client: client, span: span{from: d.record.now()}}
	ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), exchangeKey{}, x), answerTime)
	defer cancel()
	x.lost = d.send(ctx, x)
	d.record.ended(x)
}

// send sends a request and checks the answer. The error means that it is lost.
func (d *driver) send(ctx context.Context, x *exchange) error {
	method, body, sum := http.MethodGet, io.Reader(nil), emptySum
	if d.uploads {
		u := newUpload()
		method, body, sum = http.MethodPost, u, u.sum
	}
	req, err := http.NewRequestWithContext(ctx, method, d.url, body)
	if err != nil {
		return errors.New("-api is not a URL")
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	x.status = resp.StatusCode
	if resp.StatusCode == http.StatusUnauthorized {
		return errors.New("the API answered 401, to the end")
	}
	return d.verify(x, resp, sum)
}

// verify compares the digest in the answer, if there is one, with what was sent.
func (d *driver) verify(x *exchange, resp *http.Response, sum func() string) error {
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil {
		return fmt.Errorf("the answer broke off: %w", err)
	}
	var digest struct {
		SHA256 string `json:"sha256"`
	}
	json.Unmarshal(answer, &digest) // most servers answer something else
	x.checked = digest.SHA256 != ""
	x.whole = x.checked && digest.SHA256 == sum()
	if d.uploads && !x.checked {
		return fmt.Errorf("the API answered %d, without a digest", resp.StatusCode)
	}
	return nil
}

// withoutURL takes the URL out of a client's error: it may hold secrets.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// An upload is a body that arrives bit by bit from somewhere, and only once. net/http
// does not know its type, so the request has no length and no GetBody.
type upload struct {
	mu   sync.Mutex // guards what follows: net/http reads in a goroutine of its own
	left int        // chunks
	pace time.Duration
	data *rand.ChaCha8
	hash hash.Hash
}

func newUpload() *upload {
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	return &upload{
		left: 4 + rand.IntN(13),
		pace: time.Duration(6+rand.IntN(9)) * time.Millisecond,
		data: rand.NewChaCha8(seed),
		hash: sha256.New(),
	}
}

// Read returns the next 4 KiB, or what fits of them.
func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(u.pace)
	u.left--
	p = p[:min(len(p), 4<<10)]
	u.data.Read(p)
	u.hash.Write(p)
	return len(p), nil
}

// sum is the digest of what was read so far.
func (u *upload) sum() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return hex.EncodeToString(u.hash.Sum(nil))
}

func emptySum() string { return hex.EncodeToString(sha256.New().Sum(nil)) }

// wait returns false if ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
