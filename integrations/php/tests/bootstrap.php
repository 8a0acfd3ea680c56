<?php

// Debian's packages contain their own autoloaders; composer's replaces all of them if it exists.
$folders = ['Tagcache\\Tests\\' => __DIR__, 'Tagcache\\' => __DIR__.'/../src'];
if (is_file($composer = __DIR__.'/../vendor/autoload.php')) {
    require $composer;
} else {
    require '/usr/share/php/Symfony/Component/Cache/autoload.php';
    require '/usr/share/php/Psr/SimpleCache/autoload.php';
    require '/usr/share/php/Cache/IntegrationTests/autoload.php';
}
// No package of Symfony contains its tests.
if ($symfony = getenv('SYMFONY_CACHE')) {
    $folders['Symfony\\Component\\Cache\\Tests\\'] = $symfony.'/Tests';
}
spl_autoload_register(static function (string $class) use ($folders): void {
    foreach ($folders as $namespace => $folder) {
        if (str_starts_with($class, $namespace)) {
            require $folder.'/'.strtr(substr($class, strlen($namespace)), '\\', '/').'.php';

            return;
        }
    }
});
