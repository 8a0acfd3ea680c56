<?php

declare(strict_types=1);

namespace Tagcache;

/**
 * The server does not know the CACHE commands. An \Error, since Symfony turns each \Exception into a logged miss, which
 * would hide a wrong setup of the server.
 */
final class ModuleMissing extends \Error
{
    public function __construct(string $error)
    {
        parent::__construct($error.' (load tagcache.so into the server, by "loadmodule /path/to/tagcache.so" in its configuration; if it is loaded, it is older than this package)');
    }
}
