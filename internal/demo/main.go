// Demo shows the library at work, and checks it.
//
//	go run ./internal/demo
//
// starts an authorization server and an API on loopback and drives 200 clients
// with streaming uploads through [transport.Auth], while tokens expire, are revoked, and
// the token endpoint fails. The API answers each upload with its SHA-256, which is
// checked. After nine seconds it prints a table and writes timeline.html, a picture
// of it all. The exit status is 1 if a request was lost or a body did not arrive whole.
//
// The same against your own servers, to see whether they and the library get along:
//
//	CLIENT_SECRET=… go run ./internal/demo -api https://api.example.com/me \
//		-token-url https://id.example.com/oauth2/token -client-id my-service
//
// sends GET requests to the API. Secrets come from the environment alone and are never printed:
//
//	CLIENT_SECRET   authenticates the client, at the token endpoint
//	REFRESH_TOKEN   if set, the grant is refresh_token, else client_credentials
//
// A server that rotates refresh tokens ends the one in REFRESH_TOKEN: use one
// that you can spare.
//
// The flags:
//
//	-api URL          the API to send GET requests to; without it, the demo
//	-token-url URL    the token endpoint
//	-client-id ID     the client, as the token endpoint knows it
//	-param NAME=VALUE a further parameter of the token request, such as scope=read or
//	                  audience=https://api.example.com; may be repeated
//	-secret-post      send the secret in the form, to token endpoints that know no HTTP Basic
//	-allow-http       let secrets and tokens travel unencrypted
//	-n N              how many requests to send to -api (1000)
//	-pause D          how long each client rests between requests to -api (0), so that
//	                  the run outlasts a token
//	-c N              how many clients at once (200, or 20 with -api)
//	-duration D       how long the demo without -api lasts (9s)
//	-o FILE           where the picture goes (timeline.html); the drawing alone if
//	                  the name ends in .svg
//
// An interrupt ends the run early; the table and the picture tell of what was done.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/tokentripper/tokentripper/internal/origin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second interrupt kills
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is main without the process: it returns the exit status. The
// end of ctx is the interrupt.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := parse(args, getenv, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 2
	}
	mode := demonstrate
	if o.api != "" {
		mode = check
	}
	s, err := mode(ctx, o, stderr)
	if err == nil {
		err = report(s, o.picture, stdout)
	}
	if err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 1
	}
	if !s.good() {
		return 1
	}
	return 0
}

// report prints the table and writes the picture.
func report(s summary, path string, stdout io.Writer) error {
	table(stdout, s)
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("-o: %w", err)
	}
	defer f.Close()
	if err := picture(f, path, s); err != nil {
		return fmt.Errorf("-o: %w", err)
	}
	fmt.Fprintf(stdout, "\nThe picture: %s\n", path)
	return f.Close()
}

// The options are the flags and what the environment adds.
type options struct {
	api, tokenURL, clientID    string
	clientSecret, refreshToken string
	params                     url.Values
	secretPost, allowHTTP      bool
	requests, clients          int
	pause, duration            time.Duration
	picture                    string
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (*options, error) {
	o := &options{clientSecret: getenv("CLIENT_SECRET"), refreshToken: getenv("REFRESH_TOKEN"), params: url.Values{}}
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.api, "api", "", "send GET requests to this `URL`; without it, run the demo")
	f.StringVar(&o.tokenURL, "token-url", "", "the token endpoint's `URL`")
	f.StringVar(&o.clientID, "client-id", "", "the client's `ID` at the token endpoint")
	f.Func("param", "a further `NAME=VALUE` of the token request; may be repeated", o.addParam)
	f.BoolVar(&o.secretPost, "secret-post", false, "send CLIENT_SECRET in the form instead of by HTTP Basic")
	f.BoolVar(&o.allowHTTP, "allow-http", false, "let secrets and tokens travel unencrypted")
	f.IntVar(&o.requests, "n", 1000, "how many requests to send to -api")
	f.DurationVar(&o.pause, "pause", 0, "how long each client rests between requests to -api")
	f.IntVar(&o.clients, "c", 0, "how many clients at once (default 200, or 20 with -api)")
	f.DurationVar(&o.duration, "duration", 9*time.Second, "how long the demo lasts")
	f.StringVar(&o.picture, "o", "timeline.html", "where the picture goes, a `FILE`")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("%q is not a flag; -h lists them", f.Arg(0))
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	return o, o.complete(given)
}

func (o *options) addParam(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok || name == "" {
		return errors.New("it must be NAME=VALUE")
	}
	o.params.Add(name, value)
	return nil
}

// complete sets what depends on the mode, and finds what is wrong or missing.
func (o *options) complete(given map[string]bool) error {
	if !given["c"] {
		o.clients = 200
		if o.api != "" {
			o.clients = 20
		}
	}
	switch {
	case o.clients < 1:
		return errors.New("-c must be at least 1")
	case o.requests < 1:
		return errors.New("-n must be at least 1")
	case o.duration <= 0:
		return errors.New("-duration must be more than 0")
	case o.api != "":
		return o.completeCheck(given)
	}
	for _, name := range []string{"token-url", "client-id", "param", "secret-post", "allow-http", "n", "pause"} {
		if given[name] {
			return fmt.Errorf("-%s needs -api", name)
		}
	}
	return nil
}

func (o *options) completeCheck(given map[string]bool) error {
	switch {
	case given["duration"]:
		return errors.New("-duration is for the demo without -api: use -n and -pause")
	case o.tokenURL == "":
		return errors.New("-api needs -token-url, where the tokens come from")
	case o.clientID == "":
		return errors.New("-api needs -client-id")
	case o.clientSecret == "" && o.refreshToken == "":
		return errors.New("-api needs CLIENT_SECRET, REFRESH_TOKEN or both in the environment")
	}
	return errors.Join(o.checkURL("-api", o.api), o.checkURL("-token-url", o.tokenURL))
}

// checkURL does not repeat the URL, which may hold secrets.
func (o *options) checkURL(name, s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%s is not a URL such as https://host/path", name)
	case !o.allowHTTP && !origin.Private(u):
		return fmt.Errorf("%s is not encrypted; -allow-http sends secrets there all the same", name)
	}
	return nil
}
