package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// show shows how far the run is, until the function that it returns is called:
// as a bar in a terminal, and elsewhere as a line each second.
func show(w io.Writer, r *record, done func() float64) (stop func()) {
	every, form := time.Second, "%s %s\n"
	if terminal(w) {
		every, form = 100*time.Millisecond, "\r%s %s\x1b[K"
	}
	line := func() {
		requests, refused, lost := r.progress()
		fmt.Fprintf(w, form, bar(done()), fmt.Sprintf("%5.1f s  %d requests, %d refused, %d lost",
			r.now().Seconds(), requests, refused, lost))
	}
	end := make(chan struct{})
	var showing sync.WaitGroup
	showing.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				line()
			case <-end:
				return
			}
		}
	})
	return func() {
		close(end)
		showing.Wait()
		line()
		if terminal(w) {
			fmt.Fprintln(w)
		}
	}
}

func bar(part float64) string {
	const width = 30
	full := int(width * max(0, min(part, 1)))
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}

func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
