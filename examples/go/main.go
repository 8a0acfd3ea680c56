// tagcache from Go, with go-redis: Do sends any command.
//
// usage: go mod init quickstart && go get github.com/redis/go-redis/v9 && go run . [HOST:PORT]
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"

	"github.com/redis/go-redis/v9"
)

func main() {
	address := "127.0.0.1:6379"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: address})
	defer client.Close()

	set := client.Do(ctx, "CACHE.SET", "user:7", "Ada", "EX", 300, "TAGS", 2, "tenant:7", "kind:user")
	if err := set.Err(); err != nil {
		log.Fatal(err)
	}

	value, err := client.Do(ctx, "CACHE.GET", "user:7").Text()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("value:", value)

	// Pipelines take custom commands as well.
	pipe := client.Pipeline()
	first := pipe.Do(ctx, "CACHE.GET", "user:7")
	second := pipe.Do(ctx, "CACHE.GET", "user:8")
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		log.Fatal(err)
	}
	fmt.Println("pipelined:", first.Val(), second.Val())

	// go-redis speaks RESP3, where maps are maps; with Protocol: 2 they are flat slices.
	info, err := client.Do(ctx, "CACHE.TAGINFO", "tenant:7").Result()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("tenant:7:", info)

	dropped, err := client.Do(ctx, "CACHE.INVALIDATE", "tenant:7").Int64()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("dropped:", dropped)

	// A miss is redis.Nil, as for GET.
	if err := client.Do(ctx, "CACHE.GET", "user:7").Err(); errors.Is(err, redis.Nil) {
		fmt.Println("value now: none")
	}
}
