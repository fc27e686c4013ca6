package proxies_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
)

const kib, mib = 1 << 10, 1 << 20

// An upload is one request of the suite.
type upload struct {
	size    int
	point   string // of its body where it is refused
	chunked bool
	getBody bool // has GetBody, else it is recorded
	text    bool // the refusal has a body
}

// Points of a body.
const (
	before = "before the body"
	middle = "in its middle"
	after  = "after it"
)

// early is where a server refuses that does not have the whole body yet.
var early = []string{before, middle}

// all uploads, in an order that has something of everything early on.
var all = func() (all []upload) {
	for i := range 3 * 3 * 8 {
		all = append(all, upload{
			size:    []int{64 * kib, mib, 8 * mib}[i%3],
			point:   []string{before, middle, after}[i/3%3],
			chunked: i/9&1 > 0, getBody: i/9&2 > 0, text: i/9&4 > 0,
		})
	}
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}()

func (u upload) String() string {
	s := fmt.Sprintf("%d KiB, refused %s", u.size/kib, u.point)
	for word, is := range map[string]bool{"chunked": u.chunked, "GetBody": u.getBody, "refusal with a body": u.text} {
		if is {
			s += ", " + word
		}
	}
	return s
}

// content is what uploads consist of: the sum of a size tells that nothing is
// missing or repeated.
var content = func() []byte {
	b := make([]byte, 8*mib)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

var sums = func() map[int]string {
	m := map[int]string{}
	for _, u := range all {
		if m[u.size] == "" {
			m[u.size] = fmt.Sprintf("%x", sha256.Sum256(content[:u.size]))
		}
	}
	return m
}()

// request makes the request. Its headers tell the API what to do.
func (u upload) request(url string) (*http.Request, error) {
	var body io.Reader = bytes.NewReader(content[:u.size])
	if !u.getBody {
		body = struct{ io.Reader }{body}
	}
	req, err := http.NewRequest(http.MethodPost, url, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = int64(u.size)
	if u.chunked {
		req.ContentLength = -1
	}
	req.Header.Set("Sum", sums[u.size])
	if i := slices.Index(early, u.point); i >= 0 {
		req.Header.Set("Refuse-After", strconv.Itoa(i*u.size/2))
	}
	if u.text {
		req.Header.Set("Refusal-Length", "500")
	}
	return req, nil
}
