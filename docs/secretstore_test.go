package docs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/tokentripper/tokentripper/tokensource"
	"github.com/tokentripper/tokentripper/tokensource/storetest"
)

// A secretStore is a Store in Secrets of Kubernetes, one for each key. A Secret cannot be
// locked, but a change of another resourceVersion than the current one is refused. So the
// lock is an annotation with the holder and the end of the lock. The clocks of the nodes
// must agree to within a second.
type secretStore struct {
	URL    string       // https://kubernetes.default.svc/api/v1/namespaces/NAME/secrets
	Client *http.Client // over a transport.Auth, whose Source is a tokensource.File in a Cache
}

// A secret is what the store needs of a Secret. It leaves the rest alone.
type secret struct {
	Metadata struct {
		Name            string             `json:"name,omitempty"`
		ResourceVersion string             `json:"resourceVersion,omitempty"`
		Annotations     map[string]*string `json:"annotations,omitempty"`
	} `json:"metadata"`
	Data map[string][]byte `json:"data,omitempty"`
}

const holder, until, value = "example.com/holder", "example.com/until", "token"

func (s *secretStore) Load(ctx context.Context, key string) ([]byte, error) {
	now, err := s.send(ctx, http.MethodGet, name(key), nil)
	if err != nil || now == nil {
		return nil, err
	}
	return now.Data[value], nil
}

func (s *secretStore) Update(ctx context.Context, key string, fn func([]byte, func([]byte) error) error) error {
	l := &secretLock{s, name(key), rand.Text(), nil}
	now, err := s.send(ctx, http.MethodGet, l.name, nil)
	if err == nil && now == nil {
		var empty secret
		empty.Metadata.Name = l.name
		now, err = s.send(ctx, http.MethodPost, "", &empty)
	}
	if err == nil && now.lockedAt(time.Now()) {
		return tokensource.ErrLocked
	}
	if err == nil {
		now, err = l.lock(ctx, now)
	}
	if errors.Is(err, errConflict) {
		return tokensource.ErrLocked
	}
	defer l.unlock(context.WithoutCancel(ctx)) // it may be set although no answer came
	if err != nil {
		return err
	}
	l.known = [][]byte{now.Data[value]}
	return fn(now.Data[value], func(next []byte) error { return l.save(ctx, next) })
}

// A secretLock is the lock of one Update.
type secretLock struct {
	store  *secretStore
	name   string
	holder string
	known  [][]byte // what the value may be; more than one after a save without an answer
}

func (l *secretLock) lock(ctx context.Context, now *secret) (*secret, error) {
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(28 * time.Second)
	}
	text := end.Add(2 * time.Second).Format(time.RFC3339Nano)
	return l.change(ctx, now, map[string]*string{holder: &l.holder, until: &text}, nil)
}

// save returns ErrLocked if the lock or the value is no longer what it was. After another
// error it may be called again, also if somebody has changed, say, a label meanwhile.
func (l *secretLock) save(ctx context.Context, next []byte) error {
	now, err := l.store.send(ctx, http.MethodGet, l.name, nil)
	if err != nil {
		return err
	}
	same := func(k []byte) bool { return bytes.Equal(k, now.Data[value]) && (k == nil) == (now.Data[value] == nil) }
	if !l.holds(now) || !slices.ContainsFunc(l.known, same) {
		return tokensource.ErrLocked
	}
	next = append([]byte{}, next...)
	l.known = append(l.known, next)
	if _, err := l.change(ctx, now, nil, next); err != nil {
		return err
	}
	l.known = [][]byte{next}
	return nil
}

func (l *secretLock) unlock(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for err := errConflict; errors.Is(err, errConflict); {
		var now *secret
		if now, err = l.store.send(ctx, http.MethodGet, l.name, nil); err == nil && l.holds(now) {
			_, err = l.change(ctx, now, map[string]*string{holder: nil, until: nil}, nil)
		}
	}
}

func (l *secretLock) holds(now *secret) bool {
	return now != nil && now.Metadata.Annotations[holder] != nil && *now.Metadata.Annotations[holder] == l.holder
}

func (s *secret) lockedAt(now time.Time) bool {
	text := s.Metadata.Annotations[until]
	if text == nil {
		return false
	}
	end, err := time.Parse(time.RFC3339Nano, *text)
	return err != nil || now.Before(end)
}

// change changes a Secret that is still as it was now. An annotation that is nil is removed.
func (l *secretLock) change(ctx context.Context, now *secret, annotations map[string]*string, next []byte) (*secret, error) {
	var patch secret
	patch.Metadata.ResourceVersion, patch.Metadata.Annotations = now.Metadata.ResourceVersion, annotations
	if next != nil {
		patch.Data = map[string][]byte{value: next}
	}
	return l.store.send(ctx, http.MethodPatch, l.name, &patch)
}

var errConflict = errors.New("the Secret was changed meanwhile")

// send returns nil if there is no such Secret.
func (s *secretStore) send(ctx context.Context, method, name string, body *secret) (*secret, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, s.URL+"/"+name, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound && method == http.MethodGet:
		return nil, nil
	case resp.StatusCode == http.StatusConflict:
		return nil, errConflict
	case resp.StatusCode/100 != 2:
		return nil, fmt.Errorf("%s of a Secret: %s", method, resp.Status)
	}
	answer := new(secret)
	return answer, json.NewDecoder(resp.Body).Decode(answer)
}

// name is a DNS label.
func name(key string) string { return fmt.Sprintf("token-%x", sha256.Sum224([]byte(key))) }

// secrets stand for the API server: they keep resourceVersions, and merge patches (RFC 7396).
type secrets struct {
	mu      sync.Mutex // guards what follows
	byName  map[string]map[string]any
	version int
}

func (s *secrets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var body map[string]any
	json.NewDecoder(r.Body).Decode(&body)
	meta, _ := body["metadata"].(map[string]any)
	name := r.PathValue("name")
	if r.Method == http.MethodPost {
		name, _ = meta["name"].(string)
	}
	now := s.byName[name]
	switch {
	case r.Method == http.MethodPost && now != nil:
		w.WriteHeader(http.StatusConflict)
		return
	case r.Method == http.MethodPost:
		now = map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": "reports"}}}
	case now == nil:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	current := now["metadata"].(map[string]any)
	if r.Method != http.MethodGet {
		if v := meta["resourceVersion"]; v != nil && v != current["resourceVersion"] {
			w.WriteHeader(http.StatusConflict)
			return
		}
		merge(now, body)
		s.version++
		current["resourceVersion"] = strconv.Itoa(s.version)
		s.byName[name] = now
	}
	json.NewEncoder(w).Encode(now)
}

func merge(into, patch map[string]any) {
	for name, v := range patch {
		inner, isObject := v.(map[string]any)
		was, wasObject := into[name].(map[string]any)
		switch {
		case v == nil:
			delete(into, name)
		case isObject && wasObject:
			merge(was, inner)
		case isObject:
			was = map[string]any{}
			merge(was, inner)
			into[name] = was
		default:
			into[name] = v
		}
	}
}

func newSecrets(t *testing.T) (*secrets, func() tokensource.Store) {
	api, mux := &secrets{byName: map[string]map[string]any{}}, http.NewServeMux()
	mux.Handle("/secrets/{name...}", api)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return api, func() tokensource.Store { return &secretStore{URL: srv.URL + "/secrets", Client: srv.Client()} }
}

func TestAStoreOfSecretsKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() tokensource.Store {
		_, open := newSecrets(t)
		return open
	})
}

// touch changes a Secret as a controller does, which knows nothing of locks.
func (s *secrets) touch(key string, patch map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.byName[name(key)]
	merge(now, patch)
	s.version++
	now["metadata"].(map[string]any)["resourceVersion"] = strconv.Itoa(s.version)
}

func TestAStoreOfSecretsHeedsWhatOthersChange(t *testing.T) {
	api, open := newSecrets(t)
	err := open().Update(t.Context(), "k", func(_ []byte, save func([]byte) error) error {
		api.touch("k", map[string]any{"metadata": map[string]any{"labels": map[string]any{"team": "blue"}}})
		if err := save([]byte("one")); err != nil {
			t.Errorf("after a label: got error %v, want a save", err)
		}
		api.touch("k", map[string]any{"data": map[string]any{value: []byte("another's")}})
		return save([]byte("two"))
	})
	if !errors.Is(err, tokensource.ErrLocked) {
		t.Errorf("after another value: got error %v, want ErrLocked", err)
	}
	if got := fmt.Sprint(api.byName[name("k")]["metadata"].(map[string]any)["labels"]); got != "map[app:reports team:blue]" {
		t.Errorf("got the labels %s, want those of others kept", got)
	}
}
