package main

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/utils/exec"
)

// How often something that goes on for ever prints a line.
const tick = 100 * time.Millisecond

// What runs in every container.
type container struct{}

// ExecInContainer carries out one of the words that this container knows:
//
//	true, exit N        end, with a status
//	echo WORD…          print the words
//	cat                 print what comes in
//	count N             print N numbered lines
//	zeros N             print N bytes
//	ticks               print a line every 100 ms, for ever
//	size                print the terminal's size whenever it changes
//	tar cf - PATH       print an archive with the file "hello" in it (kubectl cp FROM the pod)
//	tar xmf - …         swallow an archive (kubectl cp TO the pod)
func (container) ExecInContainer(ctx context.Context, _, _, _ string, command []string, in io.Reader, out, errors io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	if in == nil {
		in = strings.NewReader("")
	}
	if out == nil {
		out = discarded{}
	}
	if command[0] == "size" {
		return sizes(ctx, out, resize)
	}
	err := say(ctx, command, in, out)
	if err != nil && errors != nil {
		fmt.Fprintln(errors, err)
	}
	return err
}

// AttachContainer greets, and gives back what it gets.
func (container) AttachContainer(_ context.Context, _, _, _ string, in io.Reader, out, _ io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize) error {
	if _, err := fmt.Fprintln(out, "attached"); err != nil || in == nil {
		return err
	}
	_, err := io.Copy(out, in)
	return err
}

// PortForward answers on every port: a page on port 80, an echo on all others.
func (container) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	if port != 80 {
		_, err := io.Copy(stream, stream)
		return err
	}
	if _, err := http.ReadRequest(bufio.NewReader(stream)); err != nil {
		return err
	}
	_, err := io.WriteString(stream, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
	return err
}

// The log is what the container's command prints; of one without a command, "line 1" to "line 3", and more every 100 ms for
// whoever follows.
func writeLog(ctx context.Context, w http.ResponseWriter, command []string, follow bool) {
	out := flushed{w}
	if len(command) > 0 {
		_ = say(ctx, command, strings.NewReader(""), out)
		return
	}
	_ = say(ctx, []string{"count", "3"}, nil, out)
	if follow {
		_ = ticks(ctx, 4, out)
	}
}

func say(ctx context.Context, command []string, in io.Reader, out io.Writer) error {
	number := func() (int64, error) {
		if len(command) < 2 {
			return 0, fmt.Errorf("%s takes a number", command[0])
		}
		return strconv.ParseInt(command[1], 10, 64)
	}
	switch command[0] {
	case "true":
		return nil
	case "exit":
		code, err := number()
		if err != nil {
			return err
		}
		return exec.CodeExitError{Err: fmt.Errorf("exit %d", code), Code: int(code)}
	case "echo":
		_, err := fmt.Fprintln(out, strings.Join(command[1:], " "))
		return err
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "count":
		end, err := number()
		for n := int64(1); n <= end && err == nil; n++ {
			_, err = fmt.Fprintln(out, "line", n)
		}
		return err
	case "zeros":
		length, err := number()
		if err != nil {
			return err
		}
		_, err = io.CopyN(out, zeros{}, length)
		return err
	case "ticks":
		return ticks(ctx, 1, out)
	case "tar":
		return archive(command, in, out)
	default:
		return exec.CodeExitError{Err: fmt.Errorf("%s: not found in this container", command[0]), Code: 127}
	}
}

func ticks(ctx context.Context, n int, out io.Writer) error {
	for ; ; n++ {
		if _, err := fmt.Fprintln(out, "line", n); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(tick):
		}
	}
}

func sizes(ctx context.Context, out io.Writer, resize <-chan remotecommand.TerminalSize) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case size, ok := <-resize:
			if !ok {
				return nil
			}
			if _, err := fmt.Fprintf(out, "%d x %d\n", size.Width, size.Height); err != nil {
				return err
			}
		}
	}
}

func archive(command []string, in io.Reader, out io.Writer) error {
	if len(command) < 2 {
		return errors.New("tar takes a letter")
	}
	if strings.Contains(command[1], "x") {
		_, err := io.Copy(io.Discard, in)
		return err
	}
	name := strings.TrimPrefix(command[len(command)-1], "/")
	writer := tar.NewWriter(out)
	if err := writer.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: 5}); err != nil {
		return err
	}
	if _, err := writer.Write([]byte("hello")); err != nil {
		return err
	}
	return writer.Close()
}

type zeros struct{}

func (zeros) Read(buffer []byte) (int, error) {
	for i := range buffer {
		buffer[i] = '0'
	}
	return len(buffer), nil
}

// What nobody asked to see.
type discarded struct{}

func (discarded) Write(text []byte) (int, error) { return len(text), nil }
func (discarded) Close() error                   { return nil }

// A response whose every line leaves at once.
type flushed struct{ http.ResponseWriter }

func (w flushed) Write(text []byte) (int, error) {
	n, err := w.ResponseWriter.Write(text)
	w.ResponseWriter.(http.Flusher).Flush()
	return n, err
}
