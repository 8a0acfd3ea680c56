<?php

// Debian's packages bring their own autoloaders; composer's stands for all of them where it exists.
if (is_file($composer = __DIR__.'/../vendor/autoload.php')) {
    require $composer;

    return;
}
require '/usr/share/php/Symfony/Component/Cache/autoload.php';
require '/usr/share/php/Psr/SimpleCache/autoload.php';
require '/usr/share/php/Cache/IntegrationTests/autoload.php';
spl_autoload_register(static function (string $class): void {
    foreach (['Tagcache\\Tests\\' => __DIR__, 'Tagcache\\' => __DIR__.'/../src'] as $namespace => $folder) {
        if (str_starts_with($class, $namespace)) {
            require $folder.'/'.substr($class, strlen($namespace)).'.php';

            return;
        }
    }
});
